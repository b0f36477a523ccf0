"""Markdown on a terminal while it is being written: what is finished is drawn once and never touched again.

Redrawing a growing text costs time that grows with the square of its length, and terminals disagree about the width of
some characters, so that redrawn lines double. Here only one line is ever written over: the end of the block that is
still open, in dim letters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TextIO

from chatglm.terminal.theme import THEMES, Theme

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_COLUMN = re.compile(r"\s*\S.*?\s{2,}(?=\S)")  # what stands before a gap of blanks
_INDENT = re.compile(r"\s*")
_TAB = 4
_ERASE = "\r\x1b[K"


class Blocks:
    """Cuts a growing text into blocks: paragraphs, lists, tables, and code between fences."""

    def __init__(self) -> None:
        self._lines: list[str] = []  # of the open block, whole ones
        self._line = ""  # the one being written
        self._fence = ""

    def feed(self, text: str) -> list[str]:
        """The blocks that `text` finishes."""
        *ended, self._line = (self._line + text).split("\n")
        return [block for line in ended if (block := self._end_line(line))]

    def _end_line(self, line: str) -> str:
        fence = _FENCE.match(line)
        if self._fence:
            self._lines.append(line)
            if fence and fence[1].startswith(self._fence) and not fence[2].strip():
                return self.flush_lines()
            return ""
        if fence and not (fence[1][0] == "`" and "`" in fence[2]):
            before = self.flush_lines()
            self._fence = fence[1]
            self._lines.append(line)
            return before
        if not line.strip():
            return self.flush_lines()
        self._lines.append(line)
        return ""

    def flush_lines(self) -> str:
        """The whole lines of the open block."""
        block, self._lines, self._fence = "\n".join(self._lines), [], ""
        return block

    def flush(self) -> str:
        """What is left at the end of the text."""
        if self._line:
            self._lines.append(self._line)
            self._line = ""
        return self.flush_lines()

    @property
    def tail(self) -> str:
        """The line being written, or the last whole one of the open block."""
        return self._line or (self._lines[-1] if self._lines else "")


class Drawing:
    """Draws texts, panels and pictures on a terminal.

    Args:
        stream: the terminal.
        theme: its colours.
        width: columns; None: as many as it has when something is drawn.
    """

    def __init__(self, stream: TextIO, *, theme: Theme = THEMES["dark"], width: int | None = None) -> None:
        self._stream, self.theme, self._width = stream, theme, width
        self._blocks = Blocks()
        self._drawn = False  # whether a block of this text stands above
        self._tail_shown = False

    @property
    def console(self) -> Console:
        """Made anew each time, so that it has the width the window has now."""
        from rich.console import Console
        from rich.theme import Theme as Styles

        color = self.theme.has_color
        return Console(
            file=self._stream, force_terminal=True, no_color=not color, width=self._width,
            color_system="auto" if color else None, highlight=False, markup=False, emoji=False,
            legacy_windows=False, theme=Styles(dict(self.theme.styles)),
        )  # fmt: skip

    def text(self, text: str) -> None:
        """More of the text of an answer."""
        for block in self._blocks.feed(text):
            self._draw(block)
        self._show_tail(self._blocks.tail)

    def writing(self, line: str) -> None:
        """Shows that something is being written which will be drawn when it is whole."""
        self._show_tail(line.rstrip("\n").rpartition("\n")[2])

    def end(self) -> None:
        """The text is over."""
        if block := self._blocks.flush():
            self._draw(block)
        self._erase_tail()
        self._drawn = False

    def code(self, title: str, code: str, language: str) -> None:
        """Code or a call in a frame."""
        from rich.syntax import Syntax

        inside = Syntax(code, language, theme=self.theme.code, word_wrap=True, background_color="default")
        self._frame(title, inside, self.theme.call)

    def result(self, title: str, text: str) -> None:
        """What came of a call or of code, in a frame."""
        from rich.text import Text

        self._frame(title, Text(text.rstrip("\n")), self.theme.result)

    def _frame(self, title: str, inside: RenderableType, style: str) -> None:
        from rich.panel import Panel
        from rich.text import Text

        self.end()
        self.console.print(Panel(inside, title=Text(title), title_align="left", border_style=style, padding=(0, 1)))

    def _draw(self, block: str) -> None:
        self._erase_tail()
        console = self.console
        if self._drawn:
            console.print()
        console.print(_markdown(block, self.theme.code))
        self._drawn = True

    def _show_tail(self, line: str) -> None:
        if not line.strip() and not self._tail_shown:
            return
        width = self.console.width
        room = max(1, width - 2 if line.isascii() else width // 2)  # terminals disagree about the width of some
        self._erase_tail()
        self._stream.write(f"\x1b[2m{_last_cells(line.expandtabs(_TAB), room)}\x1b[0m")
        self._stream.flush()
        self._tail_shown = True

    def _erase_tail(self) -> None:
        if self._tail_shown:
            self._stream.write(_ERASE)
            self._stream.flush()
            self._tail_shown = False


def _markdown(block: str, code_theme: str) -> Any:
    """As rich draws it, but what looks like HTML is text, and lines end where the model has ended them."""
    from markdown_it import MarkdownIt
    from rich.markdown import Markdown

    drawn = Markdown("", code_theme=code_theme, hyperlinks=False)
    drawn.parsed = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).parse(block)
    for token in (inner for outer in drawn.parsed for inner in outer.children or ()):
        if token.type == "softbreak":
            token.type = "hardbreak"
    return drawn


def wrapped(text: str, width: int) -> str:
    """Lines broken between words, or between wide characters; what follows a gap of blanks stays in its column."""
    from rich.console import Console
    from rich.text import Text

    console, lines = Console(width=width), []
    for line in text.split("\n"):
        found = _COLUMN.match(line) or _INDENT.match(line)
        head = found[0] if found is not None and _cells(found[0]) <= width // 2 else ""
        rest = Text(line[len(head) :]).wrap(console, width - _cells(head))
        first, *more = [piece.plain.rstrip() for piece in rest] or [""]
        lines += [head + first, *(" " * _cells(head) + piece for piece in more)]
    return "\n".join(lines)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _last_cells(text: str, room: int) -> str:
    """The end of a line that fits into so many columns."""
    while _cells(text) > room:
        text = text[max(1, (_cells(text) - room) // 2) :]
    return text
