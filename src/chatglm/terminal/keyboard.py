"""The keyboard while the program is busy."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

LOCAL_MODES = 3  # place in the list that tcgetattr gives


@contextlib.contextmanager
def typing_hidden() -> Iterator[None]:
    """Keys typed ahead are not shown in the midst of an answer; the next input line has them. Ctrl-C goes on working.

    Nothing happens where the input is no terminal, or the system has no termios.
    """
    try:
        import termios
    except ImportError:
        yield
        return
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    hidden = before[:]
    hidden[LOCAL_MODES] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
