"""How far a long command is."""

import sys
from collections.abc import Callable


def progress_line() -> Callable[[str, int, int], None] | None:
    """A line that writes over itself, on a terminal only."""
    if not sys.stderr.isatty():
        return None

    def show(name: str, done: int, total: int) -> None:
        sys.stderr.write(f"\r\x1b[K{done:,} of {total:,}  {name}" + ("\r\x1b[K" if done == total else ""))
        sys.stderr.flush()

    return show
