"""Questions that wait for a person's answer, while a turn waits for them."""

import threading
from collections.abc import Callable

from chatglm.errors import SessionError

POLL_SECONDS = 0.05  # how soon a stop is noticed; an answer is noticed at once


class Question:
    """One question; nobody's answer is a no."""

    def __init__(self) -> None:
        self._answered, self._allowed = threading.Event(), False

    def answer(self, allowed: bool) -> None:
        """Only `True` is a yes."""
        self._allowed = allowed is True
        self._answered.set()

    def wait(self, stopped: Callable[[], bool]) -> bool:
        """Whether the answer is yes; no where `stopped` says so before there is one."""
        while not self._answered.wait(POLL_SECONDS):
            if stopped():
                return False
        return self._allowed


class Consents:
    """The calls that are asked about, by id. Any thread may answer."""

    def __init__(self) -> None:
        self._asked: dict[int, Question] = {}
        self._lock = threading.Lock()

    def ask(self, call_id: int) -> Question:
        """A question that `answer` answers and `close` ends."""
        with self._lock:
            self._asked[call_id] = question = Question()
        return question

    def answer(self, call_id: int, allowed: bool) -> None:
        """Answers a question; only `True` is a yes.

        Raises:
            SessionError: nothing waits for it, or it was answered already.
        """
        with self._lock:
            asked = self._asked.pop(call_id, None)
        if asked is None:
            raise SessionError(f"no call {call_id!r} waits for an answer; answer a ConsentAsked once, while it waits")
        asked.answer(allowed)

    def close(self, call_id: int) -> None:
        with self._lock:
            self._asked.pop(call_id, None)
