"""Stop strings end an answer of a session wherever the borders of tokens and events fall."""

import pytest
from fake_sandbox import FakeSandbox
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import CALL, ByteTokenizer, ScriptedEngine, call, say

from chatglm.agent.session import Session
from chatglm.chat.message import TextDelta
from chatglm.chat.template import validate
from chatglm.engine.request import SamplingParams
from chatglm.tools import tool


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def session(stop, *script, **options):
    return Session(ScriptedEngine(*script), ByteTokenizer(), params=SamplingParams(stop=stop), **options)


def said(events):
    return "".join(event.text for event in events if isinstance(event, TextDelta))


LETTERS = st.text("ab\n停", max_size=12)


@given(LETTERS.map(lambda text: "x" + text), st.lists(LETTERS.filter(bool), min_size=1, max_size=3))
def test_the_answer_ends_before_the_first_stop_string(text, stop):
    talk = session(stop, say(text), say("next"))
    events = list(talk.send("go"))
    ends = (text[:end] for end in range(1, len(text) + 1))  # as it grows: the first stop string to be complete counts
    written = next((part for part in ends if any(word in part for word in stop)), None)
    places = [written.find(word) for word in stop if word in written] if written else []
    wanted = text[: min(places)] if places else text
    assert said(events) == wanted.strip()
    assert talk.history[-1].content == wanted.strip()
    assert events[-1].reason == "stop"
    assert talk.engine.aborted == bool(places)  # the engine does not go on writing for nobody
    assert (talk.history[-1].ids is None) == bool(places)  # the ids would say what was cut off
    list(talk.send("and now?"))
    validate(talk.history)


def test_the_empty_first_line_of_an_answer_is_no_stop_string():
    talk = session(["\n"], say("one\ntwo"))
    assert said(talk.send("go")) == "one"


def test_a_call_before_the_stop_string_is_carried_out():
    talk = session(["END"], f"{call('add', a=1, b=2).removesuffix(CALL)}<|assistant|>\n wait END more{CALL}", say("3"),
                   tools=[add])  # fmt: skip
    assert said(talk.send("go")) == "wait3"
    assert [message.content for message in talk.history[-2:]] == ["3", "3"]


@pytest.mark.parametrize("written", [call("add", a=1, b=2), "interpreter\n ```python\nprint(b=2)\n```" + CALL])
def test_a_call_that_is_cut_short_is_not_carried_out(written):
    sandbox = FakeSandbox()
    talk = session(["b="], written, tools=[add], sandbox=sandbox)
    assert list(talk.send("go"))[-1].reason == "stop"
    assert sandbox.ran == []
    assert "not carried out" in talk.history[-1].content
    validate(talk.history)
