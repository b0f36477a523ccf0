"""Ctrl-C at every line a turn goes through: the conversation stays in order, and the next message is answered."""

import linecache
import sys
from pathlib import Path

import pytest
from fake_sandbox import FakeSandbox
from scripted_engine import ByteTokenizer, ScriptedEngine, call, code, say

import chatglm
from chatglm.agent.session import Session
from chatglm.chat.template import validate
from chatglm.tools import tool

ROOMS = tuple(str(Path(chatglm.__file__).parent / room) for room in ("agent", "chat"))


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def conversation():
    """One turn is over; the next will say something, call a tool, run code and answer."""
    engine = ScriptedEngine(
        say("hello"), f"\n I add.<|assistant|>{call('add', a=1, b=2)}", code("print(3)"), say("It is 3.")
    )
    session = Session(engine, ByteTokenizer(), tools=[add], sandbox=FakeSandbox("3\n"))
    list(session.send("hi"))
    return engine, session


def talked(session, at=None):
    """The lines a turn goes through, of this package and in this thread; Ctrl-C comes before line number `at`."""
    lines = []

    def enter(frame, event, argument):
        return line if frame.f_code.co_filename.startswith(ROOMS) else None

    def line(frame, event, argument):
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            if len(lines) == at:
                if linecache.getline(*place).lstrip().startswith("with "):
                    return line  # the end of a block, where the interpreter looks for no signal; it comes a line later
                sys.settrace(None)
                raise KeyboardInterrupt
            lines.append(place)
        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        list(session.send("add 1 and 2"))
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return lines


def check(at):
    engine, session = conversation()
    place = talked(session, at)[-1]
    kept = [(message.role, message.content) for message in session.history if message.metadata or message.content]
    assert len(set(kept)) == len(kept), f"something is said twice after Ctrl-C behind {place}: {kept}"
    engine.script[:] = [say("next")]
    try:
        list(session.send("go on"))
    except Exception as error:
        raise AssertionError(f"no next turn after Ctrl-C behind {place}") from error
    validate(session.history)
    assert session.history[-1].content == "next", place


def test_ctrl_c_at_every_line():
    """The first and the last time lines are reached, every other of them; the slow test takes every moment."""
    lines = talked(conversation()[1])
    last = {place: number for number, place in enumerate(lines)}
    first = {place: number for number, place in reversed(list(enumerate(lines)))}
    numbers = sorted({*last.values(), *first.values()} - {0})
    assert len(numbers) > 200
    for at in numbers[::2]:
        check(at)


@pytest.mark.slow
def test_ctrl_c_at_every_moment():
    for at in range(1, len(talked(conversation()[1]))):
        check(at)
