"""A call in a thread of its own, which can be waited for without hanging with it.

Python cannot end a thread. A function that goes on after its time is left alone: nobody waits for it any more, and its
result is thrown away. A coroutine that a function gives is run in the same thread, and cancelled when its time is over.
"""

import asyncio
import contextvars
import inspect
import math
import threading
import time
from collections.abc import Callable
from typing import Any

POLL_SECONDS = 0.05  # how soon a stop is noticed; a result is noticed at once
_GRACE = 1.0  # seconds a cancelled coroutine has to end


class Call:
    """A function at work. Begins at once, and does not keep the process alive.

    Args:
        function: what to call; what it returns may be awaitable.
        seconds: how long it may take.

    Attributes:
        value: what the function returned, once it has ended.
        error: what it raised; `TookTooLong` for a coroutine that was cancelled.
        stuck: whether a coroutine goes on although it was cancelled.
    """

    def __init__(self, function: Callable[[], Any], seconds: float = math.inf) -> None:
        self._function, self._end = function, time.monotonic() + seconds
        self._answered = threading.Event()
        self._grace = 0.0  # a coroutine ends itself, soon after its time
        self.value: Any = None
        self.error: BaseException | None = None
        self.stuck = False
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="chatglm-work", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self._answered.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, perhaps although its time is over."""
        return self._thread.is_alive()

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Waits until it has ended, True, or until its time is over or `stopped` says so, False; it goes on then."""
        while True:
            left = self._end + self._grace - time.monotonic()
            if self._answered.wait(min(POLL_SECONDS, max(0.0, left))):
                return True
            if left <= 0 or stopped():
                return self.ended

    def result(self) -> Any:
        """What the function returned, or its error raised, after `wait` has said that it has ended."""
        if self.error is not None:
            raise self.error
        return self.value

    def _work(self) -> None:
        try:
            value = self._function()
            if inspect.isawaitable(value):
                self._grace = 2 * _GRACE
                asyncio.run(self._awaited(value))
            else:
                self._finish(value)
        except BaseException as error:
            self._finish(error=error)

    async def _awaited(self, awaitable: Any) -> None:
        """Answers before the loop is closed, because closing waits for tasks that refuse to be cancelled."""
        task = asyncio.ensure_future(_settled(awaitable))
        left = self._end - time.monotonic()
        await asyncio.wait({task}, timeout=None if left == math.inf else max(0.0, left))
        if task.done():
            self._finish(*task.result())
            return
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE)
        self.stuck = not task.done()
        self._finish(error=TookTooLong())

    def _finish(self, value: Any = None, error: BaseException | None = None) -> None:
        if not self.ended:
            self.value, self.error = value, error
            self._answered.set()


class TookTooLong(Exception):
    """A coroutine was cancelled because its time was over."""


async def _settled(awaitable: Any) -> tuple[Any, BaseException | None]:
    """What became of it, as a value: an exit raised in a task would end the whole loop."""
    try:
        return await awaitable, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error
