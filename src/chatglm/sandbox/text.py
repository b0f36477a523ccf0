"""Text and pictures that come from a guest: what of them is let through."""

import re
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby

from .result import Image, Kind, Output

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands: titles, links, the clipboard
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # device control and other strings
    r"|[\x1b\x9b]\[?[0-?]*[ -/]*[@-~]"  # colours, cursor movements and all two-character sequences
)
# C0 without tab and newline, C1, the marks that reorder or hide text, and those nobody can type.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


# What a line does to itself, as progress bars use it. Erasing becomes one character while other escapes are taken out.
_TO_END, _WHOLE = "\x01", "\x02"
_ERASING = {"\x1b[K": _TO_END, "\x1b[0K": _TO_END, "\x1b[2K": _WHOLE}
_MOVES = re.compile("([\r\b\x01\x02])")


def clean(text: str) -> str:
    """The text as a terminal would show it, without anything that steers it, hides or reorders words, or has no bytes.

    Where a line was written over, what stood there last stays.
    """
    text = text.encode("utf-8", "replace").decode("utf-8", "replace")  # lone surrogates become "?"
    text = text.replace(_TO_END, "").replace(_WHOLE, "")
    text = _ESCAPES.sub(lambda found: _ERASING.get(found[0], ""), text).replace("\r\n", "\n")
    text = "\n".join(_shown(line) if _MOVES.search(line) else line for line in text.split("\n"))
    return _CONTROL.sub("", text)


def _shown(line: str) -> str:
    """What is left of a line that goes back and writes over itself."""
    cells: list[str] = []
    column = 0
    for piece in _MOVES.split(line):
        if piece == "\r":
            column = 0
        elif piece == "\b":
            column = max(0, column - 1)
        elif piece == _TO_END:
            del cells[column:]
        elif piece == _WHOLE:
            cells = [" "] * column
        else:
            written = _CONTROL.sub("", piece)
            cells[column : column + len(written)] = written
            column += len(written)
    return "".join(cells).rstrip(" ")


def png_or_jpeg(data: bytes) -> Image | None:
    """The picture if the bytes begin like one with a size, else None. Nothing is decoded."""
    if len(data) >= 33 and data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
        return Image("image/png", data, width, height) if width and height else None
    if data[:3] == b"\xff\xd8\xff":
        size = _jpeg_size(data)
        return Image("image/jpeg", data, *size) if size else None
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the frame header of a JPEG file."""
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return (width, height) if width and height else None
        if length < 2:
            return None
        position += 2 + length
    return None


class Transcript:
    """Outputs in order, with a bound on their text: the first half of the bound and the last half are kept.

    Every piece counts as one character at least: millions of empty ones are a flood too.
    """

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._head: list[Output] = []
        self._middle: list[Output] = []  # pictures whose surroundings were dropped
        self._tail: deque[Output] = deque()
        self._room, self._tail_chars, self._lost = self._half, 0, 0
        self._lost_kind: Kind = "stdout"

    def add(self, kind: Kind, text: str, image: Image | None = None) -> None:
        """One more piece."""
        if self._room > 0 and not self._tail:
            first, text = text[: self._room], text[self._room :]
            self._room -= _size(first)
            self._head.append(Output(kind, first, image))
            image = None
            if not text:
                return
        self._tail.append(Output(kind, text, image))
        self._tail_chars += _size(text)
        while self._tail_chars > self._half:
            self._drop()

    def _drop(self) -> None:
        """What is too much of the oldest piece of the tail, or all of it."""
        oldest = self._tail.popleft()
        over = min(self._tail_chars - self._half, _size(oldest.text))
        self._lost_kind = oldest.kind if not self._lost else self._lost_kind
        self._lost += min(over, len(oldest.text))
        self._tail_chars -= over
        if over < len(oldest.text):
            self._tail.appendleft(Output(oldest.kind, oldest.text[over:], oldest.image))
        elif oldest.image is not None:
            self._middle.append(Output(oldest.kind, "", oldest.image))

    def outputs(self) -> tuple[Output, ...]:
        """Everything kept, cleaned, with a marker where something is missing."""
        marker = f"\n... [{self._lost} characters left out] ...\n"
        lost = [Output(self._lost_kind, marker)] if self._lost else []
        pieces = [*self._head, *lost, *self._middle, *self._tail]
        cleaned = (Output(piece.kind, clean(piece.text), piece.image) for piece in _merge(pieces))
        return tuple(piece for piece in cleaned if piece.text or piece.image is not None or piece.kind == "result")


def _size(text: str) -> int:
    return max(1, len(text))


def _merge(pieces: Iterable[Output]) -> Iterator[Output]:
    """Neighbouring pieces of one stream as one, so that escape sequences split over two writes are seen whole."""
    for (kind, picture), group in groupby(pieces, key=lambda piece: (piece.kind, piece.image is not None)):
        if kind in ("stdout", "stderr") and not picture:
            yield Output(kind, "".join(piece.text for piece in group))
        else:
            yield from group
