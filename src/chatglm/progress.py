"""How far a long work is: a line on standard error that writes over itself."""

import sys
from collections.abc import Callable

_WIDTH = 24  # characters of the bar


def progress_line(what: str = "") -> Callable[[str, int, int], None] | None:
    """Shows (name of what is done, how many, of how many) after `what`; None where standard error is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None

    def show(name: str, done: int, total: int) -> None:
        filled = _WIDTH * done // max(1, total)
        bar = "#" * filled + "." * (_WIDTH - filled)
        line = f"{what} [{bar}] {done:,} of {total:,}  {name}"
        sys.stderr.write("\r\x1b[K" + (line if done < total else ""))
        sys.stderr.flush()

    return show
