"""Text of strangers - a model, a tool, whoever types - as Markdown in which no HTML is left.

What a page's own sanitizer lets through is enough to cover the page or to ask for a password. So every `<` becomes an
entity, except in fences of code. Programs do not agree where a fence ends; so each is written anew, in a form that all
of them read alike, apart from everything else, and whatever else looks like one is none. So it is at every moment of a
growing text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_INFO = re.compile(r"[\w+#.-]{1,20}")
_OPENS = re.compile(r"( *)(?:(`{3,})([^`]*)|(~{3,})(.*))")
_LIKE_A_FENCE = re.compile(r"`{3,}|~{3,}")
_SPAN = re.compile(r"(?<![\\`])(`+)(?!`)(.*?[^`])\1(?!`)")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What a fence may not be called: pages draw some languages, and what they draw is HTML again.
_DRAWN = ("mermaid", "html-preview", "svg")
_DRAWN_FENCE = re.compile(r"(`{3,}|~{3,})(\s*(?:mermaid|html-preview|svg))", re.IGNORECASE)
_MARK = "\u2060"  # word joiner: has no width, and no meaning for a model


@dataclass(frozen=True)
class Code:
    """A fence: the code in it, without the blanks that stood before the fence, and its language."""

    text: str
    language: str


def divided(text: str) -> list[str | Code]:
    """The text as what stands outside fences, as it is, and the fences, in order. Control characters are gone."""
    parts: list[str | Code] = []
    said: list[str] = []
    lines = iter(plain(text).split("\n"))
    for line in lines:
        opens = _OPENS.fullmatch(line)
        if opens is None:
            said.append(line)
            continue
        parts += ["\n".join(said), Code(_inside(lines, opens), _language((opens[3] or opens[5] or "").strip()))]
        said = []
    return [part for part in (*parts, "\n".join(said)) if isinstance(part, Code) or part.strip()]


def no_html(text: str) -> list[str]:
    """The text as pieces of Markdown without HTML, without pictures of other hosts, and without drawn fences.

    Each fence is a piece of its own, and each is to be shown by itself: a formula that is open at the end of one would
    take the fence after it for its own, and what stands in that for Markdown.
    """
    return [
        fenced(part.text, part.language) if isinstance(part, Code) else "\n".join(map(_outside, part.split("\n")))
        for part in divided(text)
    ]


def _inside(lines: Iterator[str], opens: re.Match[str]) -> str:
    """The code up to where the fence ends."""
    indent, fence, code = len(opens[1]), opens[2] or opens[4], list[str]()
    for line in lines:
        if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            break
        code.append(line[min(indent, len(line) - len(line.lstrip(" "))) :])
    return "\n".join(code)


def marked_text(text: str) -> str:
    """What a visitor has typed, in one piece and as it was typed, for it can be edited.

    An invisible character keeps each `<` from beginning a tag; `unmarked` takes it away.
    """
    marked = plain(text).replace("<", f"<{_MARK}").replace("![", f"!{_MARK}[")
    return _DRAWN_FENCE.sub(lambda found: f"{found[1]}{_MARK}{found[2]}", marked)


def unmarked(text: str) -> str:
    """What `marked_text` was made of: of a message that is sent again, edited or copied."""
    return text.replace(_MARK, "")


def plain(text: str) -> str:
    """The text with one kind of line break and no other control character, ANSI codes among them."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def literal(text: str) -> str:
    """One line of text as Markdown that shows it to the character: for names of tools and files."""
    return _PUNCTUATION.sub(lambda found: f"&#{ord(found[0])};", plain(text).replace("\n", " "))


def fenced(text: str, language: str = "") -> str:
    """Text as a fence that nothing in it can end."""
    clean = plain(text)
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{clean}\n{fence}"


def _language(info: str) -> str:
    word = _INFO.match(info)
    return "" if word is None else "text" if word[0].lower().startswith(_DRAWN) else word[0]


def _outside(line: str) -> str:
    """A line outside fences. Code spans become HTML of our own: whatever Markdown takes them for, they hold none."""
    parts, end = [], 0
    for span in _SPAN.finditer(line):
        parts += [_escaped(line[end : span.start()]), f"<code>{literal(_trimmed(span[2]))}</code>"]
        end = span.end()
    return "".join(parts) + _escaped(line[end:])


def _escaped(text: str) -> str:
    text = _LIKE_A_FENCE.sub(lambda found: f"&#{ord(found[0][0])};" * len(found[0]), text)
    return text.replace("<", "&lt;").replace("![", "!\\[")


def _trimmed(code: str) -> str:
    """As Markdown does: one blank at both ends stands for backticks there."""
    return code[1:-1] if code.strip() and code.startswith(" ") and code.endswith(" ") else code
