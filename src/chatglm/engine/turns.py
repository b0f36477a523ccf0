"""Whose turn it is to work on an engine's state, and what others want done with it meanwhile.

Whoever wants something done never waits for a step to end: the call lies in an inbox, which the one whose turn it is
empties before every step and once more when the turn is over.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from chatglm.errors import RequestError

Result = TypeVar("Result")


class Turns:
    """One thread at a time has the turn. It is not re-entrant.

    Two locks, since one alone would nearly always go to the thread that has just let it go: who comes back stands in
    line behind the one who waits there already.

    Args:
        failed: told of what a posted call has raised.
    """

    def __init__(self, failed: Callable[[Exception], object]) -> None:
        self._line = threading.Lock()
        self._turn = threading.RLock()  # of this kind since it can only be released by the thread that has it
        self._owner: int | None = None
        self._failed = failed
        self._inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.wake: Callable[[], bool] = lambda: False  # wakes a thread that steps; False where there is none

    def post(self, call: Callable[[], object]) -> None:
        """Have something done before the next step, by whoever takes it; at once where nobody is at it."""
        self._inbox.put(call)
        if not self.wake():
            self.settle()

    def ask(self, call: Callable[[], Result]) -> Result:
        """Have something done and wait for what it gives, or raises.

        Raises:
            RequestError: this thread has the turn, and would wait for itself.
        """
        self._refuse_from_inside()
        answer: Future[Result] = Future()

        def answered() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)
                if not isinstance(error, Exception):  # Ctrl-C, in whichever thread it is done
                    raise

        self.post(answered)
        return answer.result()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for the turn and have it; the inbox is empty at the beginning and at the end.

        Raises:
            RequestError: this thread has it already.
        """
        self._refuse_from_inside()
        try:
            with self._line:
                self._turn.acquire()
            self._owner = threading.get_ident()
            self._empty()
            yield
        finally:
            self._leave()
            self.settle()

    def settle(self) -> None:
        """Do what lies in the inbox, unless somebody has the turn, who will."""
        while not self._inbox.empty() and self._owner is None:
            try:
                if not self._turn.acquire(blocking=False):
                    return
                self._owner = threading.get_ident()
                self._empty()
            finally:
                self._leave()

    def _leave(self) -> None:
        """Let the turn go, if it is this thread's: Ctrl-C may have come before it was, or right after."""
        if self._owner == threading.get_ident():
            self._owner = None
        with suppress(RuntimeError):
            self._turn.release()

    def _refuse_from_inside(self) -> None:
        if self._owner == threading.get_ident():
            raise RequestError(
                "an engine was asked to step or wait by a sink or hook that it calls; use another thread"
            )

    def _empty(self) -> None:
        while True:
            try:
                call = self._inbox.get_nowait()
            except Empty:
                return
            try:
                call()
            except Exception as error:
                self._failed(error)
