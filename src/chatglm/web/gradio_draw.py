"""Draws views as the messages of a Gradio chat. Everything a model, a tool or a visitor says goes through `no_html`."""

from __future__ import annotations

from typing import Any

from chatglm.web import telling
from chatglm.web.no_html import fenced, literal, marked_text, no_html
from chatglm.web.routes import file_address, picture_address
from chatglm.web.view import File, Part, Picture, Remark, Step, Text
from chatglm.web.visitor import Visitor
from chatglm.words import Words

Shown = dict[str, Any]


def messages(visitor: Visitor, words: Words) -> list[Shown]:
    """The whole conversation."""
    return [message for message, _ in numbered(visitor, words)]


def numbered(visitor: Visitor, words: Words) -> list[tuple[Shown, int]]:
    """The messages of the conversation, each with the number of its turn."""
    shown: list[tuple[Shown, int]] = []
    for number, told in enumerate(list(visitor.told)):
        shown.append((_said("user", marked_text(told.text), *(f"📎 {literal(name)}" for name in told.files)), number))
        parts = visitor.parts(number)
        shown += [(_part(part, number, words), number) for part in parts]
        if ending := telling.ending(told.done, words):
            shown.append((_said("assistant", ending), number))
    return shown


def asked(step: Step, words: Words) -> str:
    """The question before a dangerous tool, with what it would get."""
    return telling.question(step, words) + "\n\n" + fenced(*telling.written(step))


def _part(part: Part, turn: int, words: Words) -> Shown:
    if isinstance(part, Text):
        return _said("assistant", *no_html(part.text))
    if isinstance(part, Step):
        return _step(part, words)
    if isinstance(part, Picture):
        return _said("assistant", f"![{part.number + 1}]({picture_address(turn, part)})")
    if isinstance(part, File):
        return _said("assistant", telling.file_link(part, file_address(part.name)))
    assert isinstance(part, Remark)
    return _said("assistant", telling.remark(part, words))


def _step(step: Step, words: Words) -> Shown:
    """A step that can be folded: open while it goes on, closed when it is over. Of strangers it holds fences only."""
    parts = [fenced(*telling.written(step))]
    if step.result is not None:
        parts += [words("web_result_of"), fenced(telling.result(step, words), "text")]
    metadata: dict[str, Any] = {"title": telling.title(step, words), "id": f"step-{step.id}", "status": "pending"}
    if step.result is not None:
        log = words.ending(step.result.status)
        metadata |= {"status": "done", "log": log, "duration": round(step.result.seconds, 2)}
    return {**_said("assistant", "\n\n".join(parts)), "metadata": metadata}


def _said(role: str, *texts: str) -> Shown:
    """A message; each text is Markdown by itself."""
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts or ("",)]}
