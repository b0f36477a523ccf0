"""What is written while an answer comes in: the answer itself, and notes of the program that stand apart from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TextIO

from chatglm.chat.message import CodeDone, TextDelta, ToolCallDelta, ToolCallDone

DIM, RESET = "\x1b[2m", "\x1b[0m"
# Control characters other than tab and newline: text of a model must not steer the terminal.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The text without the control characters a terminal would obey."""
    return CONTROL.sub("", text)


@dataclass
class Screen:
    """Writes to one stream; `steer` says whether that is a terminal, `color` whether notes may be dimmed."""

    stream: TextIO
    steer: bool = True
    color: bool = True
    _line_open: bool = field(default=False, init=False)
    _call_open: bool = field(default=False, init=False)

    def note(self, text: str) -> None:
        """A sentence of the program, on lines of its own."""
        self.end_line()
        self._write(f"{DIM}{text}{RESET}\n" if self.color else f"{text}\n")

    def show(self, event: object) -> None:
        """One event of an answer, as soon as it comes; of those that show nothing, nothing."""
        if isinstance(event, TextDelta):
            self._text(event.text)
        elif isinstance(event, ToolCallDelta):
            if not self._call_open:
                self.end_line()
                self._text(f"[{event.name}]\n")
            self._call_open = True
            self._text(event.text)
        elif isinstance(event, ToolCallDone | CodeDone):
            self._call_open = False
            self.end_line()

    def end_line(self) -> None:
        """Go to the beginning of a line, if the cursor is not there."""
        if self._line_open:
            self._write("\n")

    def _text(self, text: str) -> None:
        self._write(printable(text) if self.steer else text)

    def _write(self, text: str) -> None:
        if text:
            self.stream.write(text)
            self.stream.flush()
            self._line_open = not text.endswith(("\n", f"\n{RESET}"))
