"""The keyboard while the program is busy."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

LOCAL_MODES = 3  # place in the list that tcgetattr gives


@contextlib.contextmanager
def typing_hidden() -> Iterator[None]:
    """Keys typed ahead are not shown in the midst of an answer; the next input line has them. Ctrl-C goes on working.

    What is pasted meanwhile comes marked as such, so that it is one text there and not a message for each line.
    Nothing happens where the input is no terminal, or the system has no termios.
    """
    with _echo(False) as termios:
        marked = termios is not None and sys.stdout.isatty()
        _write("\x1b[?2004h" if marked else "")
        try:
            yield
        finally:
            _write("\x1b[?2004l" if marked else "")


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def typing_shown() -> Iterator[None]:
    """For a question in the midst of an answer: what was typed before it is no answer to it, and is forgotten."""
    with _echo(True) as termios:
        if termios is not None:
            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
        yield


@contextlib.contextmanager
def _echo(shown: bool) -> Iterator[Any]:
    """The terminal with typing shown or not; gives the module that steers it, None where there is no terminal."""
    try:
        import termios
    except ImportError:
        yield None
        return
    if sys.stdin is None or not sys.stdin.isatty():
        yield None
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    wanted = before[:]
    wanted[LOCAL_MODES] = wanted[LOCAL_MODES] | termios.ECHO if shown else wanted[LOCAL_MODES] & ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, wanted)
    try:
        yield termios
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
