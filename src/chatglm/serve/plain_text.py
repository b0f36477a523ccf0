"""Reads an answer that is no turn of a conversation: text and nothing else, blanks and all."""

from __future__ import annotations

from collections.abc import Collection

from chatglm.chat.message import Done, Event, TextDelta
from chatglm.chat.parser import Decoder, Segment


class PlainText:
    """Stands where a `StreamParser` stands, for completions.

    Args:
        decoder: ids to text.
        stop_ids: ids that end the text.
    """

    def __init__(self, decoder: Decoder, stop_ids: Collection[int]) -> None:
        self.decoder, self.stop_ids = decoder, frozenset(stop_ids)
        self.stop_id: int | None = None
        self._text: list[str] = []
        self._ids: list[int] = []
        self._finished = False

    @property
    def segments(self) -> list[Segment]:
        text = "".join(self._text)
        return [Segment("text", "", text, text, tuple(self._ids))]

    def feed(self, token_id: int) -> list[Event]:
        if token_id in self.stop_ids:
            self.stop_id = token_id
            return []
        self._ids.append(token_id)
        return self._passed_on(self.decoder.push(token_id))

    def finish(self, reason: str = "stop") -> list[Event]:
        if self._finished:
            return []
        self._finished = True
        return [*self._passed_on(self.decoder.flush()), Done(reason, self.stop_id)]

    def _passed_on(self, text: str) -> list[Event]:
        self._text.append(text)
        return [TextDelta(text)] if text else []
