"""What pages tell beside the answers, in words: what a step is and what came of it, how a turn ended, what it cost."""

from __future__ import annotations

import json
from typing import Any

from chatglm.web.answering import Mode
from chatglm.web.conversations import Card
from chatglm.web.no_html import literal, plain
from chatglm.web.view import File, Remark, Step, code_so_far
from chatglm.web.visitor import Visitor
from chatglm.words import Words

SHOWN = 4000  # characters of a result on the page; the model is told more
MODE_SIGNS: dict[str, str] = {"chat": "💬", "tool": "🛠️", "code": "🧑‍💻"}
MODE_WORDS: dict[Mode, str] = {"chat": "web_chat", "tool": "web_tool", "code": "web_code"}
SLIDERS = {
    "temperature": "web_temperature",
    "top_p": "web_top_p",
    "repetition_penalty": "web_repetition_penalty",
    "max_new_tokens": "web_max_new_tokens",
}


def mode_title(mode: Mode, words: Words) -> str:
    """A mode's name."""
    return f"{MODE_SIGNS[mode]} {words(MODE_WORDS[mode])}"


def card_title(card: Card) -> str:
    """A conversation in a list: text, not Markdown."""
    return f"{MODE_SIGNS.get(card.mode, MODE_SIGNS['chat'])} {card.title}"


def title(step: Step, words: Words) -> str:
    """What a step is: text, not Markdown."""
    return f"💻 {words('web_code')}" if step.code else f"🛠️ {plain(step.name)}"


def written(step: Step) -> tuple[str, str]:
    """The code of a step, or the arguments of its call, and the language; what could not be read, as it was written."""
    if step.code:
        return code_so_far(step), "python"
    if step.call is None or step.call.arguments is None:
        return step.written if step.call is None else step.call.raw, ""
    return json.dumps(step.call.arguments, ensure_ascii=False, indent=2), "json"


def result(step: Step, words: Words) -> str:
    """What came of a step, as far as it is shown, without the fence in which code is told to the model."""
    text = "" if step.result is None else step.result.text
    if len(text) > SHOWN:
        text = text[:SHOWN] + "\n" + words("more_characters", count=len(text) - SHOWN)
    inner = text.removeprefix("```result\n").removesuffix("\n```")
    return inner if text.startswith("```result\n") else text


def remark(part: Remark, words: Words) -> str:
    """Something the program says about the turn, as Markdown."""
    notice = part.notice
    return _aside(words.notice(notice.kind, count=notice.count, reason=notice.reason))


def ending(done: Any, words: Words) -> str:
    """How a turn has ended, where that is not plain from the answer itself, as Markdown."""
    if done is None or done.reason == "stop":
        return ""
    if done.reason == "abort":
        return _aside(words("stopped"))
    if done.reason == "length":
        return _aside(words("limit_reached_once"))
    return _aside(words("turn_over", reason=words.ending(done.reason)))


def file_link(file: File, address: str) -> str:
    """A link to a file of the interpreter, as Markdown."""
    return f"📄 [{literal(file.name)}]({address}) ({file.size:,} B)"


def question(step: Step, words: Words) -> str:
    """What is asked before a dangerous tool, as Markdown; what it would get is shown beside it."""
    return words("web_ask", name=literal(step.name))


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


def _aside(text: str) -> str:
    return f"*{literal(text.strip('[]'))}*"
