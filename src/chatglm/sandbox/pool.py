"""Guests kept warm, so that a conversation's first cell answers at once."""

import queue
import threading
from collections.abc import Iterable
from dataclasses import replace

from chatglm.errors import SandboxError

from .config import LIBRARIES, SandboxConfig
from .sandbox import Sandbox
from .tiers import open_sandbox


class SandboxPool:
    """Never-used guests with their libraries imported. One serves one conversation and is destroyed after it.

    Args:
        size: guests kept ready.
        config: limits of each.
        preload: modules imported beforehand.
        tier, dangerously_run_unisolated: as in `open_sandbox`.
    """

    def __init__(
        self,
        size: int = 1,
        config: SandboxConfig | None = None,
        preload: Iterable[str] = LIBRARIES,
        tier: str = "auto",
        *,
        dangerously_run_unisolated: bool = False,
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise SandboxError(f"pool size is {size!r}; it must be a whole number of at least 1")
        self._config = replace(config or SandboxConfig(), preload=tuple(preload))
        self._waiting = replace(self._config, idle_seconds=None)  # waiting is what these are for
        self._tier, self._dangerously = tier, dangerously_run_unisolated
        self._ready: queue.SimpleQueue[Sandbox | Exception] = queue.SimpleQueue()
        self._wanted = threading.Semaphore(size)
        self._closed = threading.Event()
        self._filler = threading.Thread(target=self._fill, name="sandbox-pool", daemon=True)
        self._filler.start()

    def __enter__(self) -> "SandboxPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, timeout: float = 60.0) -> Sandbox:
        """A warm sandbox, which belongs to the caller from now on: close it after the conversation.

        Raises:
            SandboxError: the pool is closed, no guest starts here, or none was ready in time.
        """
        if self._closed.is_set():
            raise SandboxError("the sandbox pool is closed")
        try:
            sandbox = self._ready.get(timeout=timeout)
        except queue.Empty:
            raise SandboxError(f"no sandbox was ready within {timeout:g} s") from None
        self._wanted.release()
        if isinstance(sandbox, Exception):
            raise sandbox
        sandbox.begin_use(self._config)
        return sandbox

    def close(self) -> None:
        """Ends the guests nobody has taken."""
        self._closed.set()
        self._wanted.release()
        self._filler.join()
        while not self._ready.empty():
            sandbox = self._ready.get()
            if isinstance(sandbox, Sandbox):
                sandbox.close()

    def _fill(self) -> None:
        while True:
            self._wanted.acquire()
            if self._closed.is_set():
                return
            try:
                self._ready.put(open_sandbox(self._tier, self._waiting, dangerously_run_unisolated=self._dangerously))
            except Exception as error:  # whoever takes next is told; the thread must live to try again
                self._ready.put(error)
