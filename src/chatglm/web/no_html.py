"""Text of strangers - a model, a tool, whoever types - as Markdown in which no HTML is left.

What a page's own sanitizer lets through is enough to cover the page or to ask for a password. So every `<` becomes an
entity, except in fences of code that no reading of Markdown could take for anything else. A growing text is safe at
every moment: an open fence counts as one.
"""

from __future__ import annotations

import re

_INFO = re.compile(r"[\w+#.-]{1,20}")
_OPENS = re.compile(r"(`{3,})([^`]*)|(~{3,})(.*)")
_SPAN = re.compile(r"(?<![\\`])(`+)(?!`)(.*?[^`])\1(?!`)")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What a fence may not be called: pages draw some languages, and what they draw is HTML again.
_DRAWN = {"mermaid", "html-preview", "svg"}


def no_html(text: str) -> str:
    """The text as Markdown without HTML, without pictures of other hosts, and without drawn fences."""
    lines, fence, before = [], "", [""]  # before: what stands outside fences, for formulas that are still open
    for line in plain(text).split("\n"):
        if fence:
            over = line.strip().startswith(fence) and not line.strip().strip("`~")
            lines.append(line)
            fence = "" if over else fence
        elif (opens := _OPENS.fullmatch(line)) and not _in_formula("\n".join(before)):
            fence, info = opens[1] or opens[3], (opens[2] or opens[4] or "").strip()
            lines.append(fence + _language(info))
        else:
            before.append(line)
            lines.append(_outside(line))
    return "\n".join(lines)


def plain(text: str) -> str:
    """The text with one kind of line break and no other control character, ANSI codes among them."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def literal(text: str) -> str:
    """One line of text as Markdown that shows it to the character: for names of tools and files."""
    return _PUNCTUATION.sub(lambda found: f"&#{ord(found[0])};", plain(text).replace("\n", " "))


def fenced(text: str, language: str = "text") -> str:
    """Text as a fence that nothing in it can end."""
    clean = plain(text)
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{clean}\n{fence}"


def _language(info: str) -> str:
    word = _INFO.match(info)
    return "" if word is None else "text" if word[0].lower() in _DRAWN else word[0]


def _in_formula(text: str) -> bool:
    """Whether a display formula is open at the end, in which a page would take a fence for a part of it."""
    return text.count("$$") % 2 == 1 or text.rfind("\\[") > text.rfind("\\]")


def _outside(line: str) -> str:
    """A line outside fences. Code spans become HTML of our own: whatever Markdown takes them for, they hold none."""
    parts, end = [], 0
    for span in _SPAN.finditer(line):
        parts += [_escaped(line[end : span.start()]), f"<code>{literal(_trimmed(span[2]))}</code>"]
        end = span.end()
    return "".join(parts) + _escaped(line[end:])


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("![", "!\\[")


def _trimmed(code: str) -> str:
    """As Markdown does: one blank at both ends stands for backticks there."""
    return code[1:-1] if code.strip() and code.startswith(" ") and code.endswith(" ") else code
