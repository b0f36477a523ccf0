"""Text of strangers - a model, a tool, whoever types - as Markdown in which no HTML is left.

What a page's own sanitizer lets through is enough to cover the page or to ask for a password. So every `<` becomes an
entity, except in fences of code. Programs do not agree where a fence ends; so each is written anew, in a form that all
of them read alike, and whatever else looks like one is none. A growing text is safe at every moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_INFO = re.compile(r"[\w+#.-]{1,20}")
_OPENS = re.compile(r"( *)(?:(`{3,})([^`]*)|(~{3,})(.*))")
_LIKE_A_FENCE = re.compile(r"`{3,}|~{3,}")
_SPAN = re.compile(r"(?<![\\`])(`+)(?!`)(.*?[^`])\1(?!`)")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What a fence may not be called: pages draw some languages, and what they draw is HTML again.
_DRAWN = {"mermaid", "html-preview", "svg"}


def no_html(text: str) -> str:
    """The text as Markdown without HTML, without pictures of other hosts, and without drawn fences."""
    parts: list[str] = []
    lines, after_fence = iter(plain(text).split("\n")), False
    formula = _Formula()
    for line in lines:
        opens = None if formula.is_open else _OPENS.fullmatch(line)
        if opens is None:
            formula.read(line)
            part, is_fence = _outside(line), False
        else:
            part, is_fence = fenced(_inside(lines, opens), _language((opens[3] or opens[5] or "").strip())), True
        if parts and (is_fence or after_fence) and parts[-1].strip() and line.strip():
            parts.append("")
        parts.append(part)
        after_fence = is_fence
    return "\n".join(parts)


class _Formula:
    """Whether a display formula is open, in which a page would take a fence for a part of it."""

    def __init__(self) -> None:
        self.is_open = False

    def read(self, line: str) -> None:
        for mark in re.findall(r"\$\$|\\\[|\\\]", line):
            self.is_open = not self.is_open if mark == "$$" else mark == "\\["


def _inside(lines: Iterator[str], opens: re.Match[str]) -> str:
    """The code up to where the fence ends, without the blanks that stood before the fence."""
    indent, fence, code = len(opens[1]), opens[2] or opens[4], list[str]()
    for line in lines:
        if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            break
        code.append(line[min(indent, len(line) - len(line.lstrip(" "))) :])
    return "\n".join(code)


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
    return "" if word is None else "text" if word[0].lower() in _DRAWN else word[0]


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
