"""One answer while it is made: tokens in, events out, and the messages it comes to at any moment."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace

from chatglm.chat.message import Event, Message
from chatglm.chat.parser import Segment, StreamParser

Token = tuple[int | None, str | None]  # (id, None); the last one is (stop id or None, why it ended)


class Answer(ABC):
    """The answer to a prompt, while it is made.

    Iterating it makes it and gives the parser's events, the last of them `Done`, whose reason is "stop", "length" or
    "abort". `segments` and `messages()` are right at any moment after, also when the iteration was left in the middle.

    Args:
        prompt_ids: what is answered.
        parser: reads the tokens.
        stopped: whether somebody has ended the answer.
    """

    def __init__(self, prompt_ids: list[int], parser: StreamParser, stopped: Callable[[], bool]) -> None:
        self.prompt_ids, self.parser, self._stopped = prompt_ids, parser, stopped
        self.token_ids: list[int] = []

    @abstractmethod
    def _tokens(self) -> Iterator[Token]:
        """Makes the answer: every token, then why it ended; nothing stands at the end where it was stopped."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def segments(self) -> list[Segment]:
        """The finished segments, and after the end all."""
        return self.parser.segments

    def messages(self) -> list[Message]:
        """What was said, one message for each segment, with its ids; without ids where a stop string was cut off."""
        self.parser.finish("abort")
        said = [segment.message() for segment in self.segments if segment.ids]
        return [*said[:-1], replace(said[-1], ids=None)] if said and self._cut_off() else said

    def _cut_off(self) -> bool:
        """Whether the text has ended before its tokens did, at a stop string."""
        return False

    def __iter__(self) -> Iterator[Event]:
        reason = "abort"
        try:
            for token_id, ended in self._tokens():
                if token_id is not None:
                    self.token_ids.append(token_id)
                    yield from self.parser.feed(token_id)
                    if self._cut_off():
                        reason = "stop"
                        break
                reason = ended or reason
        finally:
            last = self.parser.finish("abort" if self._stopped() and not self._cut_off() else reason)
        yield from last
