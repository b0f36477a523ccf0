"""The seam between the chat and whatever generates its answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from chatglm.chat.message import Event, Message
from chatglm.terminal.sampling import Sampling

if TYPE_CHECKING:
    from chatglm.agent.events import TaskEvent

EMBEDDED = "tiny-glm"  # what the embedded model is called


class Reply(Protocol):
    """One answer while it is made. Iterating runs the model; the events end with `Done`."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the conversation this answers."""

    @property
    def new_tokens(self) -> int:
        """Tokens generated so far."""

    def __iter__(self) -> Iterator[Event | TaskEvent]: ...

    def messages(self) -> list[Message]:
        """What was said so far, one message for each segment, with its token ids; right at any moment, also after an
        error in the middle."""


class Responder(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """What the model is called on the screen."""

    @property
    def context_length(self) -> int:
        """The most tokens a conversation and its answer can have."""

    @property
    def vocabulary(self) -> str:
        """A fingerprint: equal for two models exactly when their token ids mean the same."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation as the model reads it, without an answer."""

    def reply(
        self, messages: Sequence[Message], sampling: Sampling, *, seed: int | None, stop: threading.Event
    ) -> Reply:
        """Begin an answer to a conversation. Setting `stop` ends it after the token it is at."""
