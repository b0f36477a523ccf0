"""A sandbox that runs nothing: a script says what comes out of each cell."""

import threading

from chatglm.sandbox.result import FileInfo, Output, Result


class FakeSandbox:
    def __init__(self, *script):
        self.script, self.ran, self.files = list(script), [], {}
        self.interrupted, self.closed = threading.Event(), False

    def run(self, code, timeout=None):
        self.ran.append(code)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if step == "hang":
            self.interrupted.wait(20)
            return Result("error", (Output("error", "KeyboardInterrupt"),))
        return step if isinstance(step, Result) else Result("ok", (Output("stdout", step),))

    def warm_up(self):
        pass

    def put(self, name, content, folders=False):
        self.files[name] = content

    def get(self, name):
        return self.files[name]

    def list(self):
        return [FileInfo(name, len(content), 0.0) for name, content in self.files.items()]

    def interrupt(self):
        self.interrupted.set()

    def close(self):
        self.closed = True
