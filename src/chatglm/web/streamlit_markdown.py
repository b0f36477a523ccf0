"""Text of strangers as Markdown of Streamlit, which shows HTML as text, but has signs and formulas of its own."""

from __future__ import annotations

import re

_SPECIAL = re.compile(
    r"(?P<span>(?<![\\`])(`+)(?!`).*?[^`]\2(?!`))"
    r"|(?P<formula>\$\$.+?\$\$|\$[^$\n]+?\$)"
    r"|\\\[(?P<big>.+?)\\\]"
    r"|\\\((?P<small>.+?)\\\)"
    r"|(?P<link>\]\((?!\s*(?:https?://|mailto:|[\w./#%?=-]*\))))"  # to data: and the like, also where it is disguised
    r"|(?P<named>^ {0,3}\[(?=[^\]\n]+\]:(?!\s*https?://)))"
    r"|(?P<sign>!\[|<|:(?=[A-Za-z]))",
    re.DOTALL | re.MULTILINE,
)
# No picture of another host, nothing that looks like a tag, and none of Streamlit's own signs, as :red[text] is one.
_SIGNS = {"![": "!\\[", "<": "&lt;", ":": "\\:"}
# Blank lines before what begins anew: not what is indented, nor another item of a list.
_BETWEEN = re.compile(r"\n(?:[ \t]*\n)+(?=\S)(?![-*+>|]|\d+[.)])")


def for_streamlit(text: str) -> str:
    """What stands outside fences, as Streamlit's Markdown. Formulas in brackets are written with dollars."""
    return _SPECIAL.sub(_written, text)


def paragraphs(text: str) -> list[str]:
    """The text in pieces that can be drawn each by itself: no list, quote or formula goes on from one to the next."""
    found: list[str] = []
    for block in _BETWEEN.split(text):
        if found and (found[-1].count("$$") % 2 or found[-1].count("\\[") > found[-1].count("\\]")):
            found[-1] += "\n\n" + block
        else:
            found.append(block)
    return [block for block in found if block.strip()]


def _written(found: re.Match[str]) -> str:
    if found["sign"] is not None:
        return _SIGNS[found["sign"]]
    if found["link"] is not None or found["named"] is not None:
        return found[0][:-1] + "\\" + found[0][-1]
    if found["small"] is not None:
        return f"${found['small'].strip()}$"  # with a blank at its edge it would be none
    if found["big"] is not None or found[0].startswith("$$"):
        return _big(found, (found["big"] or found[0].strip("$")).strip())
    return found[0]


def _big(found: re.Match[str], formula: str) -> str:
    """A formula in the middle of its line; of one that has no line of its own, in its line."""
    before = found.string[: found.start()].rpartition("\n")[2]
    after = found.string[found.end() :].partition("\n")[0]
    if before.strip() or after.strip():
        return f"$${formula}$$"
    return f"$$\n{before}{formula}\n{before}$$"
