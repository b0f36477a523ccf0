"""Read the sentences of `sentences/*.txt`: plain text, so that adding one needs no Python.

Two forms. Intents: blocks apart by blank lines, each some ways to ask and then, after `> `, the answers. Sections: a
line `[name]` and the lines that belong to it; a row of a table has its cells apart by ` | `.
"""

from functools import cache
from pathlib import Path

from chatglm.demo.text import Intent

FOLDER = Path(__file__).parent / "sentences"
_ANSWER = "> "


@cache
def read_intents(name: str) -> tuple[Intent, ...]:
    """The intents of `sentences/<name>.txt`, in order (which phrasings are held out depends on it)."""
    blocks = [block.split("\n") for block in _text(name).split("\n\n")]
    return tuple(_intent(name, block) for block in blocks)


@cache
def read_sections(name: str) -> dict[str, tuple[str, ...]]:
    """The sections of `sentences/<name>.txt` by their names."""
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in _text(name).split("\n"):
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif line and current is None:
            raise ValueError(f"{name}.txt starts with {line!r}; its first line must be a section such as [ask en]")
        elif line and current is not None:
            current.append(line)
    return {section: tuple(lines) for section, lines in sections.items()}


def rows(lines: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The cells of table lines."""
    return tuple(tuple(line.split(" | ")) for line in lines)


def _intent(name: str, block: list[str]) -> Intent:
    asks = tuple(line for line in block if not line.startswith(_ANSWER))
    answers = tuple(line.removeprefix(_ANSWER) for line in block if line.startswith(_ANSWER))
    if not asks or not answers:
        raise ValueError(
            f"a block of {name}.txt has {len(asks)} questions and {len(answers)} answers: {block}; it needs both"
        )
    return Intent(asks, answers)


def _text(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip("\n")
