"""Draws views on a Streamlit page, as a row of simple pieces: what has changed is drawn, the rest stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatglm.web import telling
from chatglm.web.no_html import Code, divided, literal
from chatglm.web.routes import file_address, picture_address
from chatglm.web.streamlit_markdown import for_streamlit, paragraphs
from chatglm.web.view import File, Part, Picture, Remark, Step, Text
from chatglm.words import Words


@dataclass(frozen=True)
class Fold:
    """A step: open while it goes on or waits for the visitor, closed when it is over."""

    label: str
    state: Literal["running", "waits", "complete"]
    codes: tuple[Code, ...]


Piece = str | Code | Fold  # a text is Markdown


def pieces(parts: Sequence[Part], turn: int, words: Words) -> list[Piece]:
    """What there is to see of a turn.

    Args:
        parts: of its view.
        turn: its number.
    """
    return [piece for part in parts for piece in _pieces(part, turn, words)]


def typed(text: str) -> list[Piece]:
    """What a visitor or a model has written; in paragraphs, so that of a growing text only the last is drawn anew."""
    found: list[Piece] = []
    for part in divided(text):
        found += [part] if isinstance(part, Code) else map(for_streamlit, paragraphs(part))
    return found


def draw(piece: Piece, where: Any) -> None:
    """Draws a piece in a container of Streamlit, or in the place of an element."""
    if isinstance(piece, Fold):
        import streamlit

        with _folded(piece, where):
            for code in piece.codes:
                draw(code, streamlit)
    elif isinstance(piece, Code):
        where.code(piece.text, language=piece.language or None)
    else:
        where.markdown(piece)


def _folded(piece: Fold, where: Any) -> Any:
    if piece.state == "waits":  # a status would look complete as soon as the script has ended
        return where.expander(piece.label, expanded=True)
    return where.status(piece.label, expanded=piece.state == "running", state=piece.state)


class Row:
    """Pieces that become more and change.

    Args:
        container: of Streamlit, in which they stand.
        before: how many the page has shown here: until a script ends, Streamlit leaves what it has not drawn anew.
    """

    def __init__(self, container: Any, before: int = 0) -> None:
        self._container = container
        self._places = [container.empty() for _ in range(before)]
        self._drawn: list[Piece] = [""] * before

    def draw(self, shown: Sequence[Piece]) -> None:
        """Draws those that are new or other than before."""
        for number, piece in enumerate(shown):
            if number == len(self._places):
                self._places.append(self._container.empty())
                self._drawn.append("")
            if piece != self._drawn[number]:
                draw(piece, self._places[number])
                self._drawn[number] = piece


def _pieces(part: Part, turn: int, words: Words) -> list[Piece]:
    if isinstance(part, Text):
        return typed(part.text)
    if isinstance(part, Step):
        return [_fold(part, words)]
    if isinstance(part, Picture):
        return [f"![{part.number + 1}]({picture_address(turn, part)})"]
    if isinstance(part, File):
        return [telling.file_link(part, file_address(part.name))]
    assert isinstance(part, Remark)
    return [telling.remark(part, words)]


def _fold(step: Step, words: Words) -> Fold:
    label, codes = literal(telling.title(step, words)), [Code(*telling.written(step))]
    if step.result is None:
        return Fold(label, "running" if step.asks is None else "waits", tuple(codes))
    codes.append(Code(telling.result(step, words), ""))
    ended = words.ending(step.result.status)
    return Fold(f"{label} · {literal(ended)} ({step.result.seconds:.2f} s)", "complete", tuple(codes))
