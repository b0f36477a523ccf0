"""Questions that wait for a person's answer, while a turn waits for them."""

import threading
from concurrent.futures import Future

from chatglm.errors import SessionError


class Consents:
    """The calls that are asked about, by id. Any thread may answer."""

    def __init__(self) -> None:
        self._asked: dict[int, Future[bool]] = {}
        self._lock = threading.Lock()

    def ask(self, call_id: int) -> "Future[bool]":
        """What will hold the answer; `close` ends the question."""
        with self._lock:
            self._asked[call_id] = answer = Future[bool]()
        return answer

    def answer(self, call_id: int, allowed: bool) -> None:
        """Answers a question; only `True` is a yes.

        Raises:
            SessionError: nothing waits for it, or it was answered already.
        """
        with self._lock:
            asked = self._asked.pop(call_id, None)
        if asked is None:
            raise SessionError(f"no call {call_id!r} waits for an answer; answer a ConsentAsked once, while it waits")
        asked.set_result(allowed is True)

    def close(self, call_id: int) -> None:
        with self._lock:
            self._asked.pop(call_id, None)
