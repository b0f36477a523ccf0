"""What is written while a turn goes on: the answer itself, what it does, and notes of the program that stand apart."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from chatglm.chat.message import CodeDone, TextDelta, ToolCall, ToolCallDelta, ToolCallDone
from chatglm.terminal.theme import THEMES, Theme
from chatglm.words import Words, printable

if TYPE_CHECKING:
    from chatglm.agent.events import Notice, Observation
    from chatglm.terminal.markdown import Drawing
    from chatglm.terminal.workbench import Workbench

DIM, RESET = "\x1b[2m", "\x1b[0m"
SHOWN = 2000  # characters of a result on the screen; the model is told more


def call_text(call: ToolCall) -> str:
    """A call as people read it; what could not be read stands as it was written."""
    if call.arguments is None:
        return call.raw.strip()
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


@dataclass
class Screen:
    """Draws the events of a session on one stream, or what is not the answer itself on another.

    Args:
        stream: where the answer goes.
        words: the program's language.
        steer: whether the stream is a terminal, which obeys control characters.
        color: whether notes may be dimmed.
        bench: saves figures; without it they are not shown.
        aside: where everything goes that is not the answer; None: on the same stream.
        drawing: draws answers as Markdown and calls in frames; None: everything as it comes, as plain text.
        wraps: whether notes are broken to the width of the terminal.
    """

    stream: TextIO
    words: Words = field(default_factory=Words)
    steer: bool = True
    color: bool = True
    bench: Workbench | None = None
    aside: Screen | None = None
    drawing: Drawing | None = None
    wraps: bool = False
    _line_open: bool = field(default=False, init=False)
    _open_call: int = field(default=0, init=False)
    _worn: Theme | None = field(default=None, init=False)

    @property
    def theme(self) -> Theme:
        """Its colours."""
        return self._worn or (self.drawing.theme if self.drawing else THEMES["dark" if self.color else "none"])

    def wear(self, theme: Theme) -> None:
        """Other colours from now on."""
        self._worn, self.color = theme, theme.has_color
        if self.drawing is not None:
            self.drawing.theme = theme

    def show(self, event: object) -> None:
        """One event, as soon as it comes; of those that show nothing, nothing."""
        from chatglm.agent.events import FileProduced, ImageProduced, Notice, Observation

        if isinstance(event, TextDelta):
            self._text(event.text)
        elif isinstance(event, (ToolCallDelta, ToolCallDone, CodeDone)):
            self.end_line() if self.aside is not None else None
            (self.aside or self)._call(event)
        elif isinstance(event, Observation):
            (self.aside or self)._result(event)
        elif isinstance(event, ImageProduced) and self.bench is not None:
            self.remark(self.bench.saved_figure(event, self.words))
        elif isinstance(event, FileProduced):
            self.remark(self.words("produced", name=printable(event.name), size=event.size))
        elif isinstance(event, Notice):
            self.remark(told(event, self.words))

    def note(self, text: str) -> None:
        """A sentence of the program, on lines of its own; what it quotes does not steer the terminal."""
        self.end_line()
        text = printable(text)
        if self.wraps:
            from chatglm.terminal.markdown import wrapped

            text = wrapped(text, shutil.get_terminal_size().columns)
        self._write(f"{DIM}{text}{RESET}\n" if self.color else f"{text}\n")

    def say(self, name: str, /, **values: object) -> None:
        """One of the program's sentences."""
        self.note(self.words(name, **values))

    def remark(self, text: str) -> None:
        """A sentence beside the answer."""
        self.end_line()
        (self.aside or self).note(text)

    def end_line(self) -> None:
        """Go to the beginning of a line, if the cursor is not there."""
        if self.drawing is not None:
            self.drawing.end()
        elif self._line_open:
            self._write("\n")

    def _call(self, event: ToolCallDelta | ToolCallDone | CodeDone) -> None:
        if self.drawing is not None:
            self._draw_call(self.drawing, event)
        elif isinstance(event, ToolCallDelta):
            if self._open_call != event.id:
                self.end_line()
                self._text(f"[{event.name}]\n")
            self._open_call = event.id
            self._text(event.text)
        else:
            self.end_line()

    def _draw_call(self, drawing: Drawing, event: ToolCallDelta | ToolCallDone | CodeDone) -> None:
        if isinstance(event, ToolCallDelta):
            drawing.writing(printable(event.text))
        elif isinstance(event, CodeDone):
            drawing.code("interpreter", printable(event.code), "python")
        else:
            drawing.code(printable(event.call.name), printable(call_text(event.call)), "python")

    def _result(self, event: Observation) -> None:
        ending, seconds = self.words.ending(event.status), f"{event.seconds:.1f}"
        name = self.words("result_of", name=event.name, status=ending, seconds=seconds)
        self.end_line()
        if self.drawing is not None:
            self.drawing.result(printable(name).strip("[]"), self._shortened(event.text))
        else:
            self.note(name)
            self.note(self._shortened(event.text))

    def _shortened(self, text: str) -> str:
        text = printable(text)
        if len(text) <= SHOWN:
            return text
        return f"{text[:SHOWN]}\n{self.words('more_characters', count=len(text) - SHOWN)}"

    def _text(self, text: str) -> None:
        if self.drawing is not None:
            self.drawing.text(printable(text))
            return
        self._write(printable(text) if self.steer else text)

    def _write(self, text: str) -> None:
        if text:
            self.stream.write(text)
            self.stream.flush()
            self._line_open = not text.endswith(("\n", f"\n{RESET}"))


def told(notice: Notice, words: Words) -> str:
    """A notice as a sentence."""
    return words.notice(notice.kind, count=notice.count, reason=printable(notice.reason))
