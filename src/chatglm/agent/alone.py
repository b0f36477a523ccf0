"""What every session is: a conversation, which one at a time works on. Others are told so, and nobody waits."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from chatglm.agent.conversation import Conversation
from chatglm.chat.message import Message, check_encodable
from chatglm.errors import SessionError

_Self = TypeVar("_Self", bound="TakesTurns")


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


class TakesTurns:
    """Keeps a conversation that has one turn or change at a time; is stopped from any thread; a context manager."""

    _said: Conversation

    def __init__(self) -> None:
        self._stop, self._turns = threading.Event(), OneAtATime()

    @property
    def history(self) -> list[Message]:
        """All messages of finished turns, the system message first."""
        return self._said.after_system(self._said.messages)

    @property
    def system(self) -> str | None:
        """The user's own words in the system message; None where there are none."""
        return self._said.own

    def set_system(self, text: str | None) -> None:
        """Give the system message other words of one's own; None: the official ones, where there are tools or code.

        Raises:
            SessionError: with ChatGLM2, which knows no system message; or in the midst of a turn.
        """
        check_encodable(text or "", "the system prompt")
        with self._alone():
            self._said.reword(text)

    def clear(self) -> None:
        """Forget everything that was said; the system message stays, and so does what the interpreter holds."""
        with self._alone():
            self._keep([])

    def undo(self) -> str:
        """Take back the last message and everything that answered it; returns its text.

        Raises:
            SessionError: nothing was said yet, or the session is in the midst of a turn.
        """
        with self._alone():
            start = self._said.last_turn()
            question = self._said.messages[start]
            self._keep(self._said.messages[:start])
        return question.content

    def _keep(self, messages: list[Message]) -> None:
        """Goes on with these messages."""
        self._said.messages = messages

    def stop(self) -> None:
        """End the turn that is going on, from any thread; what was said so far stays. Does nothing between turns."""
        self._stop.set()

    def close(self) -> None:
        """Stop a turn that is going on; no other begins."""
        self._turns.closed = True
        self.stop()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._turns.alone():
            self._stop.clear()
            yield
