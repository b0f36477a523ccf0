"""One at a time: whoever works on a session while somebody else does is told so, and nobody waits."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chatglm.errors import SessionError


@dataclass
class _Use:
    """Somebody who works on the session: a turn that is read, or a change of its state."""

    over: bool = False


class OneAtATime:
    """Lets one in; until it is closed.

    No lock is held meanwhile, which Ctrl-C between two lines could leave taken: a use that was not ended is forgotten.
    """

    def __init__(self) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._use: Callable[[], _Use | None] = lambda: None  # a weak reference to the last one

    def check(self) -> None:
        """Refuses who would not be let in now.

        Raises:
            SessionError: the session is closed, or somebody works on it.
        """
        if self.closed:
            raise SessionError("the session is closed; open another one, or load() what save() has written")
        use = self._use()
        if use is not None and not use.over:
            raise SessionError("the session is in the midst of a turn; read its events to the end, or close() them")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is let in meanwhile.

        Raises:
            SessionError: as `check`.
        """
        use = _Use()
        try:
            with self._lock:
                self.check()
                self._use = weakref.ref(use)
            yield
        finally:
            use.over = True
