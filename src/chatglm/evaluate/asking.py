"""What a run asks of a model, and what it is told; who answers is a matter of `local.py` and `server.py`."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a model.

    Args:
        key: given back with the reply.
        text: the prompt.
        chat: as a user's message, rather than as it is.
        letters: tell how likely each of these is behind the prompt; empty: have an answer written.
        blank: with the blank that SentencePiece puts before a word.
        max_tokens, stop: of what is written; it is the likeliest text (greedy).
        shared: how the text begins in common with others.
        tools: functions that are offered; the reply is then written as the model writes calls.
        longest: tokens of the text; of longer ones the middle is left out. None: what the context holds.
    """

    key: str
    text: str
    chat: bool = False
    letters: tuple[str, ...] = ()
    blank: bool = True
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    shared: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    longest: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a query.

    Args:
        prompt: token ids of the prompt, or the text where a server has encoded it.
        text: what was written.
        logprobs: of the letters, natural logarithm.
        finish: "stop", "length", or "refused".
        dropped: tokens that were left out of the prompt.
        prompt_tokens, new_tokens: as counted by whoever answered; None: not told.
        error: why it was refused.
    """

    key: str
    prompt: list[int] | str
    text: str = ""
    logprobs: tuple[float, ...] = ()
    finish: str = "stop"
    dropped: int = 0
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    error: str = ""


ROOM = 24  # tokens for what the chat format adds to a text


class Asked(Protocol):
    """Whatever answers queries."""

    context: int | None  # tokens a prompt and its answer may have together; None: not known

    @property
    def shortens(self) -> bool:
        """Whether it can leave out the middle of a text that is too long."""

    about: Mapping[str, Any]  # what a report tells of it: name, hash of the weights, dtype

    def count(self, text: str) -> int:
        """Tokens of a text, or a guess."""

    def replies(self, waiting: "deque[Query]") -> Iterator[Reply]:
        """Answers all that waits, in whatever order answers come; more may be put there meanwhile."""

    def speed(self) -> Mapping[str, Any]:
        """Counters since it was made."""


def shortened(
    text: str, limit: int, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]
) -> tuple[str, int]:
    """The text without its middle, where it has more tokens than `limit`, and how many tokens that is."""
    if len(text.encode("utf-8", "surrogatepass")) <= limit:
        return text, 0  # no token is less than a byte
    ids = encode(text)
    if len(ids) <= limit:
        return text, 0
    half = limit // 2
    while True:  # the two halves may take a token more together than apart
        kept = decode(ids[:half]) + decode(ids[-half:])
        if (length := len(encode(kept))) <= limit:
            return kept, len(ids) - length
        half -= max(1, (length - limit) // 2)
