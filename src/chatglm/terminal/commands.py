"""What a line typed at the prompt means: text for the model, or a command of the program."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

# name -> the argument it takes, as shown by /help
COMMANDS = {
    "/clear": "",
    "/system": "TEXT",
    "/save": "FILE",
    "/load": "FILE",
    "/retry": "",
    "/undo": "",
    "/upload": "FILE",
    "/files": "",
    "/get": "FILE",
    "/tools": "",
    "/code": "",
    "/set": "NAME VALUE",
    "/model": "NAME",
    "/adapter": "FOLDER",
    "/tokens": "",
    "/cut": "",
    "/stats": "",
    "/theme": "COLOURS",
    "/help": "",
    "/exit": "",
}
OTHER_NAMES = {"/quit": "/exit", "/bye": "/exit", "/q": "/exit", "/?": "/help", "/new": "/clear"}
# The words the official terminal demo understands, and those that end every other program of this kind.
PLAIN_WORDS = {"clear": "/clear", "stop": "/exit", "exit": "/exit", "quit": "/exit"}


@dataclass(frozen=True)
class Say:
    """Text for the model."""

    text: str


@dataclass(frozen=True)
class Do:
    """A command and what stood after it (without the blanks around it)."""

    command: str
    argument: str = ""


@dataclass(frozen=True)
class Unknown:
    """Something that looks like a command and is none; `suggestion` is empty when nothing comes near."""

    command: str
    suggestion: str


def read_line(line: str) -> Say | Do | Unknown | None:
    """The meaning of one input; `None` when there is nothing in it. A block of quotes is always text for the model."""
    is_block = line.lstrip().startswith(BLOCK)
    text = unquote_block(line) if is_block else unquote_block(line).strip()
    if not text.strip():
        return None
    return Say(text) if is_block else _read_text(text)


def _read_text(text: str) -> Say | Do | Unknown:
    if text in PLAIN_WORDS:
        return Do(PLAIN_WORDS[text])
    if text.startswith("//"):
        return Say(text[1:])
    match = re.match(r"/\S*", text)
    if not match:
        return Say(text)
    name = OTHER_NAMES.get(match.group(), match.group())
    if name in COMMANDS:
        return Do(name, text[match.end() :].strip())
    return Unknown(name, suggest(name))


def suggest(name: str) -> str:
    """The command that `name` most likely stands for, or an empty string."""
    near = difflib.get_close_matches(name.lower(), [*COMMANDS, *OTHER_NAMES], n=1, cutoff=0.5) if len(name) > 1 else []
    return OTHER_NAMES.get(near[0], near[0]) if near else ""


# Several lines in one message.

BLOCK = '"""'


def is_complete(text: str) -> bool:
    """Whether Enter ends the input here: not after a backslash, and not inside an open block of three quotes."""
    if text.lstrip().startswith(BLOCK):
        return text.count(BLOCK) > 1
    return not text.endswith("\\")


def unquote_block(text: str) -> str:
    """The message without the marks that made it span several lines."""
    stripped = text.strip()
    if stripped.startswith(BLOCK):
        inner, _, rest = stripped[len(BLOCK) :].partition(BLOCK)
        return inner.strip("\n") + rest
    return text.replace("\\\n", "\n")
