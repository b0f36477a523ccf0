"""A re-entrant lock that is given in order of asking.

Python's own goes to whoever asks first after a release, which is nearly always the thread that steps the engine in a
loop: others could wait for many steps to hand in a request.
"""

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """Re-entrant, first come first served; a context manager."""

    def __init__(self) -> None:
        self._state = threading.Lock()
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> "FairLock":
        me = threading.get_ident()
        if self._owner == me:
            self._depth += 1
            return self
        with self._state:
            if self._owner is None:
                self._owner, self._depth = me, 1
                return self
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((me, gate))
        try:
            gate.acquire()  # opened by the one before, who has made this thread the owner
        except BaseException:  # Ctrl-C while waiting: nobody may hand the lock to one who has left
            self._leave_the_line(me, gate)
            raise
        return self

    def _leave_the_line(self, me: int, gate: threading.Lock) -> None:
        with self._state:
            waiting = (me, gate) in self._waiting
            if waiting:
                self._waiting.remove((me, gate))
        if not waiting:  # it was this thread's already
            self.__exit__(None, None, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        with self._state:
            if self._waiting:
                self._owner, gate = self._waiting.popleft()
                self._depth = 1
                gate.release()
            else:
                self._owner = None
