"""What a page has told of a conversation: each turn with its events, so that it can be shown again to the picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatglm.agent.events import ImageProduced, Observation, TurnDone
from chatglm.agent.wire import from_json, to_json
from chatglm.chat.call import extract_code, parse_tool_call
from chatglm.chat.message import INTERPRETER, CodeDone, Message, Role, TextDelta, ToolCallDelta, ToolCallDone
from chatglm.errors import ConversationError
from chatglm.web.view import View


@dataclass
class Told:
    """One turn.

    Attributes:
        text: what the visitor has written.
        files: names of the files that came with it.
        events: what the turn has told, text in one piece.
    """

    text: str
    files: tuple[str, ...] = ()
    events: list[Any] = field(default_factory=list)
    _view: View | None = field(default=None, repr=False)

    @property
    def view(self) -> View:
        """Of the whole turn; empty while it goes on."""
        if not self.events:
            return View()
        if self._view is None:
            self._view = View.of(self.events)
        return self._view

    @property
    def done(self) -> TurnDone | None:
        return self.view.done

    def to_json(self, *, pictures: bool = True) -> dict[str, Any]:
        kept = [event for event in self.events if pictures or not isinstance(event, ImageProduced)]
        return {"text": self.text, "files": list(self.files), "events": [to_json(event) for event in kept]}

    @classmethod
    def from_json(cls, item: Any) -> Told:
        """What `to_json` has written.

        Raises:
            ConversationError: it is something else.
        """
        try:
            files = tuple(map(str, item["files"]))
            return cls(str(item["text"]), files, [from_json(event) for event in item["events"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ConversationError(f"a turn is {item!r:.100}; it must hold text, files and events: {error}") from None


def compact(events: Iterable[Any]) -> list[Any]:
    """Events with neighbouring pieces of text, or of one call, as one."""
    kept: list[Any] = []
    for event in events:
        last = kept[-1] if kept else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            kept[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ToolCallDelta) and isinstance(last, ToolCallDelta) and event.id == last.id:
            kept[-1] = ToolCallDelta(last.name, last.text + event.text, last.id)
        else:
            kept.append(event)
    return kept


def told_by(messages: Sequence[Message]) -> list[Told]:
    """The turns of a conversation of which only the messages are known, as of one that a terminal has saved."""
    turns: list[Told] = []
    ids, waiting = itertools.count(1), list[tuple[int, str]]()
    for message in messages:
        if message.role is Role.USER:
            turns.append(Told(message.content))
            waiting.clear()
        elif not turns:
            continue
        elif message.role is Role.OBSERVATION:
            step, name = waiting.pop(0) if waiting else (next(ids), "")
            turns[-1].events.append(Observation(step, name, message.content, True, "ok", 0.0))
        else:
            turns[-1].events += _written(message, ids, waiting)
    return turns


def _written(message: Message, ids: Iterator[int], waiting: list[tuple[int, str]]) -> list[Any]:
    if not message.metadata:
        return [TextDelta(message.content)]
    step = next(ids)
    waiting.append((step, message.metadata))
    if message.metadata == INTERPRETER:
        return [CodeDone(extract_code(message.content), message.content, step)]
    return [ToolCallDone(parse_tool_call(message.content, message.metadata), step)]
