"""Mistakes in programs, and the errors the sandbox tells of them."""

import random
import re

_WORD = re.compile(r"\b(print|sum|len|sorted|max|min|round|range)\(")


def mistake(code: str, cell: int, rng: random.Random) -> tuple[str, str]:
    """A program with a mistake, and the error of running it as the cell of this number.

    The mistakes are those a small model makes itself: a word misspelt, an import forgotten, a bracket left open, a
    name that does not exist.
    """
    makers = [_misspelt, _open_bracket, _unknown_name]
    if code.startswith(("import ", "from ")):
        makers += [_not_imported, _not_imported]
    return rng.choice(makers)(code, cell, rng)


def traceback(code: str, line: int, cell: int, error: str) -> str:
    """An error as the sandbox words it: the line of the cell, then what is wrong."""
    source = code.split("\n")[line - 1].strip()
    return f"Traceback (most recent call last):\n\n  Cell In[{cell}], line {line}\n    {source}\n\n{error}"


def _misspelt(code: str, cell: int, rng: random.Random) -> tuple[str, str]:
    last = code.rsplit("\n", 1)[-1]
    found = _WORD.search(last)
    if found is None:
        return _open_bracket(code, cell, rng)
    word = found.group(1)
    at = rng.randrange(1, len(word))
    wrong = word[:at] + word[at + 1 :]
    broken = code[: len(code) - len(last)] + last.replace(f"{word}(", f"{wrong}(", 1)
    line = broken.count("\n") + 1
    return broken, traceback(broken, line, cell, f"NameError: name '{wrong}' is not defined")


def _open_bracket(code: str, cell: int, rng: random.Random) -> tuple[str, str]:
    broken = code[:-1]
    line = broken.count("\n") + 1
    last = broken.rsplit("\n", 1)[-1]
    caret = " " * len(last) + "^"
    return broken, f"  Cell In[{cell}], line {line}\n    {last}\n    {caret}\nSyntaxError: incomplete input"


def _unknown_name(code: str, cell: int, rng: random.Random) -> tuple[str, str]:
    """The result is asked for under a name that nobody has given."""
    last = code.rsplit("\n", 1)[-1]
    name = rng.choice(("result", "answer", "value", "total", "output"))
    broken = code[: len(code) - len(last)] + f"print({name})"
    return broken, traceback(broken, broken.count("\n") + 1, cell, f"NameError: name '{name}' is not defined")


def _not_imported(code: str, cell: int, rng: random.Random) -> tuple[str, str]:
    first, rest = code.split("\n", 1)
    names = first.split(" import ")[-1].removeprefix("import ").split(", ")
    used = [name for name in names if re.search(rf"\b{name}\b", rest)]
    at = next(number for number, line in enumerate(rest.split("\n"), 1) if any(name in line for name in used))
    text = rest.split("\n")[at - 1]
    name = min(used, key=text.find)
    return rest, traceback(rest, at, cell, f"NameError: name '{name}' is not defined")
