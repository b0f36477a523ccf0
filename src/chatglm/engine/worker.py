"""The thread that steps, where an engine has one."""

import atexit
import threading
from collections.abc import Callable


class Worker:
    """Steps as long as there is work, and sleeps until it is woken.

    Args:
        step: takes a step; gives whether there is more to do. It does not raise.
    """

    def __init__(self, step: Callable[[], bool]) -> None:
        self._step, self._closing = step, False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chatglm-engine", daemon=True)
        atexit.register(self.close)  # Python must not end under a running step
        self._thread.start()

    def wake(self) -> bool:
        """There may be work; from any thread. False if the thread is about to end, and may not see it."""
        self._woken.set()
        return not self._closing

    def close(self) -> None:
        """End the thread after the step it is at; it may be called twice, and from that thread itself."""
        self._closing = True
        self._woken.set()
        atexit.unregister(self.close)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._woken.clear()  # before looking for work: what comes after that wakes it again
            if not self._step():
                self._woken.wait()
