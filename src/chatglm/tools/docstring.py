"""What a function's docstring says about the function and its parameters: Google, NumPy and reST forms."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_PARAMETERS = frozenset(["args", "arguments", "parameters", "params", "keyword args", "keyword arguments"])
_OTHER_SECTIONS = frozenset(
    ["returns", "return", "yields", "raises", "examples", "example", "notes", "note", "see also", "warnings"]
    + ["warning", "references", "todo", "attributes", "other parameters", "methods", "warns"]
)
_GOOGLE_ITEM = re.compile(r"(?P<name>\*{0,2}\w+)\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*[:：]\s*(?P<text>.*)")
_NUMPY_ITEM = re.compile(r"(?P<name>\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_REST_ITEM = re.compile(
    r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(?P<name>\w+)\s*:\s*(?P<text>.*)"
)
_REST_OTHER = re.compile(r":(?:returns?|rtype|raises?|type|yields?|var|cvar|ivar|meta)\b[^:]*:")


@dataclass
class DocumentedFunction:
    """The description, and one text per parameter that has one; line breaks inside them are blanks."""

    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)


def read_docstring(function: Callable[..., Any]) -> DocumentedFunction:
    """Reads a docstring. Sections that are not about parameters are left out; nothing raises."""
    lines = (inspect.getdoc(function) or "").splitlines()
    found = DocumentedFunction()
    description: list[str] = []
    place = 0
    while place < len(lines):
        kind, start = _section(lines, place)
        if kind is None:
            place = _plain_line(lines, place, found, description)
            continue
        end = _section_end(lines, start)
        if kind == "google":
            _google(lines[start:end], found)
        elif kind == "numpy":
            _numpy(lines[start:end], found)
        place = end
    found.description = _joined(description)
    return found


def _section(lines: list[str], place: int) -> tuple[str | None, int]:
    """What begins at this line - "google", "numpy", "other" or nothing - and where its body starts."""
    line = lines[place]
    title = line.strip().rstrip(":：").strip().lower()
    if line[:1].isspace() or title not in _PARAMETERS | _OTHER_SECTIONS:
        return None, place
    underlined = place + 1 < len(lines) and re.fullmatch(r"-{3,}\s*", lines[place + 1]) is not None
    if underlined:
        return ("numpy" if title in _PARAMETERS else "other"), place + 2
    if line.rstrip().endswith((":", "：")):
        return ("google" if title in _PARAMETERS else "other"), place + 1
    return None, place


def _section_end(lines: list[str], start: int) -> int:
    """A section ends where the next begins, or at a line that is not indented after an empty one (Google)."""
    numpy = start >= 2 and lines[start - 1].startswith("---")
    for place in range(start, len(lines)):
        if _section(lines, place)[0] is not None:
            return place
        line = lines[place]
        if not numpy and line.strip() and not line[:1].isspace():
            return place
    return len(lines)


def _plain_line(lines: list[str], place: int, found: DocumentedFunction, description: list[str]) -> int:
    """A line of the description, or a reST field with the lines that go on with it."""
    item = _REST_ITEM.match(lines[place])
    if item is None and not _REST_OTHER.match(lines[place]):
        description.append(lines[place])
        return place + 1
    end = place + 1
    while end < len(lines) and lines[end][:1].isspace():
        end += 1
    if item is not None:
        found.parameters[item["name"]] = _joined([item["text"], *lines[place + 1 : end]])
    return end


def _google(lines: list[str], found: DocumentedFunction) -> None:
    depths = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    name: str | None = None
    for line in lines:
        item = _GOOGLE_ITEM.match(line.strip())
        if item is not None and len(line) - len(line.lstrip()) == min(depths):
            name = item["name"].lstrip("*")
            found.parameters[name] = item["text"].strip()
        elif name is not None and line.strip():
            found.parameters[name] = f"{found.parameters[name]} {line.strip()}".strip()


def _numpy(lines: list[str], found: DocumentedFunction) -> None:
    names: list[str] = []
    for line in lines:
        item = None if line[:1].isspace() else _NUMPY_ITEM.fullmatch(line.strip())
        if item is not None:
            names = [name.strip().lstrip("*") for name in item["name"].split(",")]
            continue
        for name in names if line.strip() else ():
            found.parameters[name] = f"{found.parameters.get(name, '')} {line.strip()}".strip()


def _joined(lines: list[str]) -> str:
    """Paragraphs keep their empty line; the lines of one are joined, also where no blank stands between the words."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(line.strip() for line in lines).strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
