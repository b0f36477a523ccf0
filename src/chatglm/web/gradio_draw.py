"""Draws views as the messages of a Gradio chat. Everything a model, a tool or a visitor says goes through `no_html`."""

from __future__ import annotations

import json
from typing import Any

from chatglm.web.no_html import fenced, literal, marked_text, no_html, plain
from chatglm.web.view import File, Part, Picture, Remark, Step, Text, code_so_far
from chatglm.web.visitor import Visitor
from chatglm.words import Words

SHOWN = 4000  # characters of a result on the page; the model is told more
PLACE = "chatglm"  # where pictures and files lie, beside the page
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
        if ending := _ending(told.done, words):
            shown.append((_said("assistant", ending), number))
    return shown


def _part(part: Part, turn: int, words: Words) -> Shown:
    if isinstance(part, Text):
        return _said("assistant", *no_html(part.text))
    if isinstance(part, Step):
        return _step(part, words)
    if isinstance(part, Picture):
        return _said("assistant", f"![{part.number + 1}]({PLACE}/picture/{turn}/{part.number})")
    if isinstance(part, File):
        return _said("assistant", file_link(part.name, part.size))
    assert isinstance(part, Remark)
    notice = part.notice
    return _said("assistant", _aside(words.notice(notice.kind, count=notice.count, reason=notice.reason)))


def _step(step: Step, words: Words) -> Shown:
    """A step that can be folded: open while it goes on, closed when it is over. Of strangers it holds fences only."""
    result = step.result
    parts = [fenced(code_so_far(step), "python") if step.code else _call(step)]
    if result is not None:
        text = result.text if len(result.text) <= SHOWN else result.text[:SHOWN] + "\n" + _more(result.text, words)
        parts += [words("web_result_of"), fenced(_without_fence(text), "text")]
    title = f"{'💻' if step.code else '🛠️'} {words('web_code') if step.code else plain(step.name)}"
    metadata: dict[str, Any] = {"title": title, "id": f"step-{step.id}", "status": "pending"}
    if result is not None:
        metadata |= {"status": "done", "log": words.ending(result.status), "duration": round(result.seconds, 2)}
    return {**_said("assistant", "\n\n".join(parts)), "metadata": metadata}


def _call(step: Step) -> str:
    """The arguments of a call as JSON; what could not be read, as it was written."""
    if step.call is None or step.call.arguments is None:
        return fenced(step.written if step.call is None else step.call.raw)
    return fenced(json.dumps(step.call.arguments, ensure_ascii=False, indent=2), "json")


def _without_fence(text: str) -> str:
    """A result of code, without the fence it is told to the model in."""
    inner = text.removeprefix("```result\n").removesuffix("\n```")
    return inner if text.startswith("```result\n") else text


def _more(text: str, words: Words) -> str:
    return words("more_characters", count=len(text) - SHOWN)


def file_link(name: str, size: int) -> str:
    """A link to a file of the interpreter."""
    from urllib.parse import quote

    return f"📄 [{literal(name)}]({PLACE}/file/{quote(name)}) ({size:,} B)"


def _ending(done: Any, words: Words) -> str:
    """How a turn has ended, where that is not plain from the answer itself."""
    if done is None or done.reason == "stop":
        return ""
    if done.reason == "abort":
        return _aside(words("stopped"))
    if done.reason == "length":
        return _aside(words("limit_reached_once"))
    return _aside(words("turn_over", reason=words.ending(done.reason)))


def _aside(text: str) -> str:
    return f"*{literal(text.strip('[]'))}*"


def _said(role: str, *texts: str) -> Shown:
    """A message; each text is Markdown by itself."""
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts or ("",)]}


def asked(step: Step, words: Words) -> str:
    """The question before a dangerous tool, with what it would get."""
    return words("web_ask", name=literal(step.name)) + "\n\n" + _call(step)


def counter(visitor: Visitor, words: Words) -> str:
    """How long the last answer was and how fast, and how full the context is."""
    done = visitor.told[-1].done if visitor.told else None
    if done is None:
        return ""
    tokens, limit = visitor.tokens()
    return words(
        "web_counter",
        new=done.new_tokens,
        speed=f"{done.tokens_per_second:.1f}",
        first=f"{done.first_token_seconds or 0:.2f}",
        tokens=tokens or "?",
        limit=limit or "?",
    )
