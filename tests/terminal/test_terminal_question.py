"""The question before a dangerous tool, on a real terminal."""

import sys

import pytest
from pseudo_terminal import PseudoTerminal

ASK = """
import select, sys
from chatglm.terminal.consent import read_answer
from chatglm.terminal.keyboard import typing_hidden
with typing_hidden():
    print("busy", flush=True)
    assert select.select([sys.stdin], [], [], 60)[0]  # something was typed ahead
    print(repr(read_answer("Allow it? ")), flush=True)
print("over", flush=True)
"""


@pytest.mark.parametrize(("keys", "answer"), [("y\r", "'y\\n'"), ("n\r", "'n\\n'"), ("\x03", "''"), ("\x04", "''")])
def test_the_question_is_answered_by_what_is_typed_after_it(keys, answer):
    terminal = PseudoTerminal([sys.executable, "-c", ASK], {})
    try:
        terminal.wait_for("busy")
        terminal.type("y\r")  # typed ahead: it was meant for something else
        terminal.wait_for("Allow it? ")
        terminal.type(keys)
        terminal.wait_for(answer)
        terminal.wait_for("over")
        assert terminal.wait_for_end() == 0
    finally:
        terminal.close()
