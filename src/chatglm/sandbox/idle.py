"""Ends guests that nobody has used for a while. One thread for all of them."""

import logging
import threading
import time
from typing import Protocol
from weakref import WeakSet

from .config import SandboxConfig

_LOOK_SECONDS = 5.0
_log = logging.getLogger(__name__)


class _Idle(Protocol):
    config: SandboxConfig

    def end_idle(self, before: float) -> None: ...


_watched: "WeakSet[_Idle]" = WeakSet()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def watch(sandbox: _Idle) -> None:
    """Looks after this sandbox as long as it exists."""
    global _thread
    with _lock:
        _watched.add(sandbox)
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_loop, name="sandbox-idle", daemon=True)
            _thread.start()


def look() -> None:
    """Ends what has been idle for too long."""
    with _lock:
        sandboxes = list(_watched)
    for sandbox in sandboxes:
        if sandbox.config.idle_seconds is not None:
            sandbox.end_idle(time.monotonic() - sandbox.config.idle_seconds)


def _loop() -> None:
    while True:
        time.sleep(_LOOK_SECONDS)
        try:
            look()
        except Exception:
            _log.exception("an idle guest could not be ended")  # the others must be looked after all the same
