"""The question before a dangerous tool, asked of the person at the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatglm.chat.message import ToolCall
from chatglm.terminal.screen import Screen, call_text
from chatglm.words import printable

if TYPE_CHECKING:
    from chatglm.agent.actions import Ask


def person_decides(screen: Screen, read: Callable[[str], str] | None) -> Ask:
    """Asks before a dangerous tool is used; where there is nobody, the answer is no.

    Args:
        screen: where the question is asked.
        read: reads an answer; None: nobody can be asked.
    """

    def ask(call: ToolCall) -> bool:
        screen.end_line()
        question = printable(screen.words("ask", call=call_text(call)))
        answer = "" if read is None else read(question)
        allowed = answer.strip().lower() in ("y", "yes", "是", "好")
        if not allowed:
            screen.say("refused", name=call.name)
        return allowed

    return ask


def read_answer(question: str) -> str:
    """One line from the keyboard; Ctrl-C and Ctrl-D mean no."""
    import signal
    import sys

    from chatglm.terminal.keyboard import typing_shown

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with typing_shown():
            sys.stderr.write(question)
            sys.stderr.flush()
            return sys.stdin.readline()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return ""
    finally:
        signal.signal(signal.SIGINT, before)
