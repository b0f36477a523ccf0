"""A call with a time limit: plain functions in a thread of their own, coroutines on an event loop.

Python cannot end a thread. A function that goes on after its time is abandoned: nobody waits for it any more, its
result is thrown away, and it is counted until it ends.
"""

import asyncio
import contextlib
import contextvars
import inspect
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_GRACE = 1.0  # seconds a cancelled coroutine has to end

Function = Callable[..., Any]


@dataclass(frozen=True)
class Outcome:
    """How a call ended: with a value, an exception, or not in time."""

    value: Any = None
    exception: BaseException | None = None
    timed_out: bool = False


class Runner:
    """Runs calls and knows which of them never ended."""

    def __init__(self) -> None:
        self._abandoned: list[threading.Thread | asyncio.Task[Outcome]] = []
        self._lock = threading.Lock()

    def abandoned(self) -> int:
        """How many calls are still running after their time."""
        with self._lock:
            self._abandoned = [one for one in self._abandoned if _is_running(one)]
            return len(self._abandoned)

    def run(self, function: Function, arguments: dict[str, Any], timeout: float) -> Outcome:
        """Carries out the call; from inside an event loop too, which then stands still."""
        answers: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        thread = _start(function, arguments, timeout, answers.put)
        try:
            return answers.get(timeout=timeout + 2 * _GRACE if _is_async(function) else timeout)
        except queue.Empty:
            self._abandon(thread)
            return Outcome(timed_out=True)
        except BaseException:  # Ctrl-C while waiting
            self._abandon(thread)
            raise

    async def arun(self, function: Function, arguments: dict[str, Any], timeout: float) -> Outcome:
        """Carries out the call on the running event loop; plain functions still in a thread."""
        if _is_async(function):
            return await self._await(function(**arguments), timeout)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()

        def post(outcome: Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(lambda: None if answer.done() else answer.set_result(outcome))

        thread = _start(function, arguments, timeout, post)
        done = False
        try:
            await asyncio.wait({answer}, timeout=timeout)
            done = answer.done()
            return answer.result() if done else Outcome(timed_out=True)
        finally:
            if not done:
                self._abandon(thread)
                answer.cancel()

    async def _await(self, coroutine: Any, timeout: float) -> Outcome:
        task = asyncio.ensure_future(_settled(coroutine))
        try:
            await asyncio.wait({task}, timeout=timeout)
            if task.done():
                return task.result()
        except asyncio.CancelledError:
            task.cancel()
            raise
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE)
        if not task.done():
            self._abandon(task)
        return Outcome(timed_out=True)

    def _abandon(self, call: "threading.Thread | asyncio.Task[Outcome]") -> None:
        with self._lock:
            self._abandoned.append(call)


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _is_running(call: "threading.Thread | asyncio.Task[Outcome]") -> bool:
    return call.is_alive() if isinstance(call, threading.Thread) else not call.done()


async def _settled(awaitable: Any) -> Outcome:
    """What became of it, as a value: an exit raised in a task would end the whole loop."""
    try:
        return Outcome(await awaitable)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return Outcome(exception=error)


def _start(
    function: Function, arguments: dict[str, Any], timeout: float, post: Callable[[Outcome], None]
) -> threading.Thread:
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(_call, function, arguments, timeout, post), name="tool call", daemon=True
    )
    thread.start()
    return thread


def _call(function: Function, arguments: dict[str, Any], timeout: float, post: Callable[[Outcome], None]) -> None:
    end = time.monotonic() + timeout
    try:
        value = function(**arguments)
    except BaseException as error:
        post(Outcome(exception=error))
        return
    if not inspect.isawaitable(value):
        post(Outcome(value))
        return
    try:
        asyncio.run(_finish(value, max(0.0, end - time.monotonic()), post))
    except BaseException as error:  # the loop itself failed; a second answer does no harm
        post(Outcome(exception=error))


async def _finish(awaitable: Any, timeout: float, post: Callable[[Outcome], None]) -> None:
    """Answers before the loop is closed, because closing waits for tasks that refuse to be cancelled."""
    task = asyncio.ensure_future(_settled(awaitable))
    await asyncio.wait({task}, timeout=timeout)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE)
        post(Outcome(timed_out=True))
        return
    post(task.result())
