"""A server as users start it: a process of its own, on a port that is free, with the embedded model."""

import os
import re
import signal
import subprocess
import threading
from collections import deque

SECONDS = 300  # a machine may be busy; nothing waits so long on one that is not


class RunningServer:
    """`chatglm serve` with some options, started and ready."""

    def __init__(self, python, *options, environment=None):
        self.process = subprocess.Popen(
            [*python, "-m", "chatglm", "serve", "--port", "0", *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.log = deque(maxlen=1000)
        self._ready = threading.Event()
        self.url = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(SECONDS) or self.url is None:
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "".join(self.log))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"answers at (https?://\S+)/v1", line)
            if found:
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    def end(self, number=signal.SIGTERM):
        """Its exit status after a signal."""
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join()
        self.process.stderr.close()
        return status
