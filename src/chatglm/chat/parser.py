"""From the token ids of an answer to events and typed segments, while the model is still writing.

Role markers are recognised as token ids, which nobody can type. `<|assistant|>` inside an answer starts a new segment;
`<|user|>`, `<|observation|>` and end-of-text end the turn. Inside a segment the text counts: its first line is the
metadata, which decides what the segment is.

| metadata line | segment |
| --- | --- |
| blank | text: the rest, without blanks around it |
| `interpreter` | code |
| the name of an offered tool | tool call |
| anything else | depends on `tools`, below |

The model leaves the line blank before a plain answer, but not always, and then the first line of an answer of several
lines looks like a tool's name. What was offered decides:

- `tools=None` or `True`, not known: as the official code, every first line that is not blank is a name.
- a collection of names: the line is a name if it is one of them. Another line that could be a name is one only if
  `tool_call(` follows (a call of a tool that does not exist, which the caller should answer). Else all is text.
- `False` or empty, nothing offered: all is text, but for `interpreter`.

An answer of one line is always text. Nothing raises, whatever the ids, and no text is lost.
"""

import itertools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from chatglm.chat.call import extract_code, parse_tool_call
from chatglm.chat.message import (
    INTERPRETER,
    CodeDone,
    Done,
    Event,
    Message,
    Role,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallDone,
)

TRAINING_DATE = "[[训练时间]]"  # the model writes this placeholder; people are shown the year, as officially
TRAINING_YEAR = "2023年"

_NAME = re.compile(r"[\w.-]{1,64}")
_CALL_STARTS = ("```python\ntool_call(", "```\ntool_call(", "tool_call(")


class Decoder(Protocol):
    """Ids to text, one at a time."""

    def push(self, token_id: int, /) -> str:
        """The text that became certain: whole characters only."""

    def flush(self) -> str:
        """What is left at the end of the text; the decoder is then ready for another text."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of an answer, between two `<|assistant|>`.

    Attributes:
        kind: what it is.
        metadata: the name in its first line, without blanks around it; "" for text.
        content: text without blanks around it; a call or code exactly as written after the metadata line.
        raw: all of the segment's text as decoded.
        ids: its token ids.
        call: the parsed call, for a tool call.
        code: the code without fences, for code.
        id: of a call or code, the one its events carry; 0 for text.
    """

    kind: Literal["text", "tool_call", "code"]
    metadata: str
    content: str
    raw: str
    ids: tuple[int, ...]
    call: ToolCall | None = None
    code: str | None = None
    id: int = 0

    @property
    def display(self) -> str:
        """The content as people are shown it."""
        return self.content.replace(TRAINING_DATE, TRAINING_YEAR) if self.kind == "text" else self.content

    def message(self) -> Message:
        """The segment as an assistant message that renders to exactly the ids it was made of."""
        return Message(Role.ASSISTANT, self.content, self.metadata, ids=self.ids)


class StreamParser:
    """Feed it the generated ids one by one, then `finish`. `segments` grows as they are completed.

    Args:
        decoder: ids to text; see `Decoder`.
        assistant_id: the id of `<|assistant|>`; None for ChatGLM2, whose answers are plain text without metadata.
        stop_ids: ids that end the turn.
        tools: what was offered; see the module.

    `new_id` gives the ids of calls and code, counted from 1; who joins several answers puts a counter of its own there.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        assistant_id: int | None,
        stop_ids: Collection[int],
        tools: Collection[str] | bool | None = None,
    ) -> None:
        self.decoder = decoder
        self.assistant_id = assistant_id
        self.stop_ids = frozenset(stop_ids)
        self.names = None if tools is None or tools is True else frozenset(tools or ())
        self.segments: list[Segment] = []
        self.stop_id: int | None = None
        self.new_id: Callable[[], int] = itertools.count(1).__next__
        self._finished = False
        self._open: _Writing | None = self._new_segment()

    def _new_segment(self) -> "_Writing":
        return _Writing(self.names, plain=self.assistant_id is None, new_id=lambda: self.new_id())

    def feed(self, token_id: int) -> list[Event]:
        """The events that became certain with this token. Tokens after one that ended the turn are no part of it."""
        if self._open is None:
            return []
        if token_id in self.stop_ids:
            self.stop_id = token_id
            return self._close()
        if token_id == self.assistant_id:
            events = self._close()
            self._open = self._new_segment()
            return events
        self._open.ids.append(token_id)
        return self._open.write(self.decoder.push(token_id))

    def finish(self, reason: str = "stop") -> list[Event]:
        """The last events and `Done`. A second call has nothing to add."""
        if self._finished:
            return []
        self._finished = True
        return [*self._close(), Done(reason, self.stop_id)]

    def _close(self) -> list[Event]:
        if self._open is None:
            return []
        events = self._open.write(self.decoder.flush())
        segment, last_events = self._open.close()
        # In one step: whatever interrupts, a segment is open or finished, and never both.
        self.segments, self._open = [*self.segments, segment], None
        return events + last_events


class _Writing:
    """A segment while it is being written."""

    def __init__(self, names: frozenset[str] | None, plain: bool, new_id: Callable[[], int]) -> None:
        self.names, self.new_id = names, new_id
        self.id = 0
        self.ids: list[int] = []
        self.raw: list[str] = []
        self.held: list[str] = []  # text whose kind is not known yet
        self.kind: Literal["text", "tool_call", "code"] | None = "text" if plain else None
        self.metadata = ""
        self.content: list[str] = []
        self.display = _Display()

    def write(self, text: str) -> list[Event]:
        if not text:
            return []
        self.raw.append(text)
        if self.kind is not None:
            return self._pass_on(text)
        self.held.append(text)
        if self.names is None and "\n" not in text:
            return []  # the first line goes on, and any line may be a name
        known = self._decide("".join(self.held))
        return [] if known is None else self._pass_on(known)

    def close(self) -> tuple[Segment, list[Event]]:
        events: list[Event] = []
        if self.kind is None:
            self.kind = "text"
            events += self._pass_on("".join(self.held))
        raw, content = "".join(self.raw), "".join(self.content)
        if self.kind == "text":
            segment = Segment("text", "", content.strip(), raw, tuple(self.ids))
            return segment, events + _deltas(self.display.end())
        if self.kind == "code":
            code = extract_code(content)
            events.append(CodeDone(code, content, self.id))
            return Segment("code", self.metadata, content, raw, tuple(self.ids), code=code, id=self.id), events
        call = parse_tool_call(content, self.metadata)
        events.append(ToolCallDone(call, self.id))
        return Segment("tool_call", self.metadata, content, raw, tuple(self.ids), call=call, id=self.id), events

    def _decide(self, held: str) -> str | None:
        """Sets the kind if it is known by now, and returns what of the held text belongs to the content."""
        line, newline, rest = held.partition("\n")
        name = line.strip()
        if not newline:
            if self._may_be_name(name):
                return None
            self.kind = "text"
            return held
        if not name:
            self.kind = "text"
            return rest
        is_call = self._is_call(name, rest)
        if is_call is None:
            return None
        if not is_call:
            self.kind = "text"
            return held
        self.id = self.new_id()
        self.kind, self.metadata = ("code" if name == INTERPRETER else "tool_call"), name
        return rest

    def _may_be_name(self, start: str) -> bool:
        if self.names is None or INTERPRETER.startswith(start) or any(name.startswith(start) for name in self.names):
            return True
        return bool(self.names) and _NAME.fullmatch(start) is not None

    def _is_call(self, name: str, rest: str) -> bool | None:
        """Whether the segment is a call of `name`; None while it depends on what comes."""
        if self.names is None or name == INTERPRETER or name in self.names:
            return True
        if not self.names or not _NAME.fullmatch(name):
            return False
        body = rest.lstrip()
        if body.startswith(_CALL_STARTS):
            return True
        return None if any(start.startswith(body) for start in _CALL_STARTS) else False

    def _pass_on(self, text: str) -> list[Event]:
        if self.kind == "text":
            self.content.append(text)
            return _deltas(self.display.write(text))
        if not text:
            return []
        if not self.content:
            # The content is encoded by a call of its own: one leading blank is the mark of that and not content.
            text = text.removeprefix(" ")
        self.content.append(text)
        return [ToolCallDelta(self.metadata, text, self.id)] if text else []


def _deltas(text: str) -> list[Event]:
    return [TextDelta(text)] if text else []


class _Display:
    """Text as people are shown it, passed on as early as possible: no blanks around it, the placeholder replaced."""

    def __init__(self) -> None:
        self.started = False
        self.held = ""

    def write(self, text: str) -> str:
        text = self.held + text
        if not self.started:
            text = text.lstrip()
            self.started = text != ""
        text = text.replace(TRAINING_DATE, TRAINING_YEAR)
        end = len(text.rstrip())
        if end == len(text):
            end = len(text[: end - beginning_of_date(text)].rstrip())
        self.held = text[end:]
        return text[:end]

    def end(self) -> str:
        return self.held.rstrip()


def beginning_of_date(text: str) -> int:
    """How many characters at the end of the text may be the beginning of the placeholder."""
    lengths = range(min(len(TRAINING_DATE) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(TRAINING_DATE[:length])), 0)
