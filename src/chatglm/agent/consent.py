"""Questions that wait for a person's answer, while a turn waits for them."""

import threading
from collections.abc import Callable

from chatglm.errors import SessionError

POLL_SECONDS = 0.05  # how soon a stop is noticed; an answer is noticed at once


class Question:
    """Whether one call is allowed."""

    def __init__(self) -> None:
        self.allowed = False
        self._answered = threading.Event()

    def answer(self, allowed: bool) -> None:
        """Only `True` is a yes."""
        self.allowed = allowed is True
        self._answered.set()

    def wait(self, stopped: Callable[[], bool]) -> bool:
        """The answer; no, once `stopped` says that nobody waits for it any longer."""
        while not self._answered.wait(POLL_SECONDS):
            if stopped():
                return False
        return self.allowed


class Consents:
    """The calls that are asked about, by id. Any thread may answer."""

    def __init__(self) -> None:
        self._asked: dict[int, Question] = {}
        self._lock = threading.Lock()

    def ask(self, call_id: int) -> Question:
        """A question, until `close` ends it."""
        with self._lock:
            question = self._asked[call_id] = Question()
        return question

    def answer(self, call_id: int, allowed: bool) -> None:
        """Answers a question.

        Raises:
            SessionError: nothing waits for it, or it was answered already.
        """
        with self._lock:
            question = self._asked.pop(call_id, None)
        if question is None:
            raise SessionError(f"no call {call_id!r} waits for an answer; answer a ConsentAsked once, while it waits")
        question.answer(allowed)

    def close(self, call_id: int) -> None:
        with self._lock:
            self._asked.pop(call_id, None)
