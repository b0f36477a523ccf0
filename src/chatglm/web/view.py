"""From the events of a turn to what a page shows: a list of parts, in order. Plain values; pages draw them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from chatglm.agent.events import ConsentAsked, FileProduced, ImageProduced, Notice, Observation, TurnDone
from chatglm.chat.call import extract_code
from chatglm.chat.message import CodeDone, TextDelta, ToolCall, ToolCallDelta, ToolCallDone

Asks = Literal["consent", "answer"]


@dataclass
class Text:
    """What the model says."""

    text: str


@dataclass
class Step:
    """A call of a tool, or code that is run.

    Attributes:
        id: of the call or code.
        name: the tool; `interpreter` for code.
        written: what the model has written so far; of code that is complete, the code.
        call: the call, once it is complete; None for code.
        asks: what the turn waits for here: leave to make the call, or its result, which the visitor gives.
        result: what came of it, as the model is told; None while it goes on.
    """

    id: int
    name: str
    written: str = ""
    code: bool = False
    call: ToolCall | None = None
    asks: Asks | None = None
    result: Observation | None = None


@dataclass(frozen=True)
class Picture:
    """A picture that code has shown; `number` counts those of one turn from 0."""

    number: int
    mime: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class File:
    """A file that code has written."""

    name: str
    size: int


@dataclass(frozen=True)
class Remark:
    """Something the program says about the turn."""

    notice: Notice


Part = Text | Step | Picture | File | Remark


class View:
    """The parts of one turn.

    Args:
        by_hand: names of the tools whose results the visitor gives.

    Attributes:
        parts: in the order in which they are shown.
        done: how the turn ended; None while it goes on.
        version: changes with every event.
    """

    def __init__(self, by_hand: Collection[str] = ()) -> None:
        self.parts: list[Part] = []
        self.done: TurnDone | None = None
        self.version = 0
        self._by_hand = frozenset(by_hand)

    @classmethod
    def of(cls, events: Iterable[Any]) -> View:
        """The view of a turn that is over."""
        view = cls()
        for event in events:
            view.add(event)
        return view

    def add(self, event: Any) -> None:
        """Takes one event in."""
        self.version += 1
        if isinstance(event, TextDelta):
            self._text(event.text)
        elif isinstance(event, ToolCallDelta):
            step = self._step(event.id, event.name)
            step.written += event.text
        elif isinstance(event, (ToolCallDone, CodeDone)):
            self._written(event)
        elif isinstance(event, ConsentAsked):
            self._step(event.id, event.call.name).asks = "consent"
        elif isinstance(event, Observation):
            step = self._step(event.id, event.name)
            step.result, step.asks = event, None
        elif isinstance(event, ImageProduced):
            self.parts.append(Picture(len(self.pictures), event.mime, event.data))
        elif isinstance(event, FileProduced):
            self.parts.append(File(event.name, event.size))
        elif isinstance(event, Notice):
            self.parts.append(Remark(event))
        elif isinstance(event, TurnDone):
            self.done = event

    @property
    def pictures(self) -> list[Picture]:
        return [part for part in self.parts if isinstance(part, Picture)]

    @property
    def asking(self) -> Step | None:
        """The step at which the turn waits for the visitor."""
        return next((part for part in self.parts if isinstance(part, Step) and part.asks), None)

    def answered(self) -> None:
        """The visitor has answered; what comes of it is told by the events."""
        self.version += 1
        for part in self.parts:
            if isinstance(part, Step):
                part.asks = None

    def _text(self, text: str) -> None:
        if self.parts and isinstance(last := self.parts[-1], Text):
            last.text += text
        elif text.strip():
            self.parts.append(Text(text.lstrip()))

    def _written(self, event: ToolCallDone | CodeDone) -> None:
        if isinstance(event, CodeDone):
            step = self._step(event.id, "interpreter")
            step.written, step.code = event.code, True
            return
        step = self._step(event.id, event.call.name)
        step.call = event.call
        step.asks = "answer" if event.call.name in self._by_hand else None

    def _step(self, step_id: int, name: str) -> Step:
        for part in reversed(self.parts):
            if isinstance(part, Step) and part.id == step_id and part.result is None:
                return part
        step = Step(step_id, name, code=name == "interpreter")
        self.parts.append(step)
        return step


def code_so_far(step: Step) -> str:
    """The code of a step, also while it is being written, without its fence."""
    return step.written if not step.written.lstrip().startswith("```") else extract_code(step.written)
