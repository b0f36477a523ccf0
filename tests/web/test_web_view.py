"""From events to parts; what was told can be kept and shown again."""

from agent.scripted_engine import ByteTokenizer, ScriptedEngine, call, code, say
from hypothesis import given
from hypothesis import strategies as st
from web.scripted_page import answers, remove

from chatglm.agent.events import ImageProduced, Notice, Observation, TurnDone
from chatglm.agent.session import Session
from chatglm.chat.message import CodeDone, TextDelta, ToolCall, ToolCallDelta, ToolCallDone
from chatglm.tools import named
from chatglm.web.routes import picture_address
from chatglm.web.throttle import SOONEST, Throttle
from chatglm.web.told import Told, compact, told_by
from chatglm.web.view import File, Picture, Step, Text, View, code_so_far

DONE = TurnDone("stop", 1, 3, 4, 1.0, True)


def test_a_turn_with_everything():
    view = View()
    for event in (
        TextDelta("\n Let "), TextDelta("me see."),
        ToolCallDelta("interpreter", "```python\n1 +", 1), ToolCallDelta("interpreter", " 1\n```", 1),
    ):  # fmt: skip
        view.add(event)
    text, step = view.parts
    assert text == Text("Let me see.")
    assert code_so_far(step) == "1 + 1"
    assert step.result is None
    view.add(CodeDone("1 + 1", "```python\n1 + 1\n```", 1))
    view.add(result := Observation(1, "interpreter", "2", True, "ok", 0.1))
    view.add(ImageProduced(1, "image/png", b"a"))
    view.add(ImageProduced(1, "image/png", b"b"))
    view.add(Notice("history_cut", count=2))
    view.add(TextDelta("Two."))
    view.add(DONE)
    assert step.result is result
    assert [picture.number for picture in view.pictures] == [0, 1]
    assert view.parts[-1] == Text("Two.")
    assert view.done is DONE


def test_two_calls_of_one_answer_have_steps_of_their_own():
    view = View()
    for number in (1, 2):
        view.add(ToolCallDelta("a", f"call {number}", number))
        view.add(ToolCallDone(ToolCall("a", {"x": number}, ""), number))
    for number in (1, 2):
        view.add(Observation(number, "a", str(number), True, "ok", 0.1))
    assert [(step.call.arguments["x"], step.result.text) for step in view.parts] == [(1, "1"), (2, "2")]


def test_a_tool_of_the_visitor_waits_until_its_result_comes():
    view = View({"mine"})
    view.add(ToolCallDone(ToolCall("mine", {}, ""), 1))
    assert view.asking.asks == "answer"
    view.answered()
    assert view.asking is None
    view.add(Observation(1, "mine", "done", True, "ok", 0.1))
    assert view.asking is None


TEXTS = st.lists(st.text(min_size=1, max_size=5), max_size=8)


@given(TEXTS, TEXTS)
def test_neighbouring_pieces_are_kept_as_one_and_show_the_same(before, after):
    events = [*map(TextDelta, before), *(ToolCallDelta("a", text, 1) for text in after), DONE]
    kept = compact(events)
    assert len(kept) <= 3
    assert View.of(kept).parts == View.of(events).parts


def told_in(session, text):
    return Told(text, ("a.csv",), compact(session.send(text)))


def test_what_was_told_survives_json_and_is_found_again_from_messages():
    engine = ScriptedEngine(
        f"Let me see.<|assistant|>{call('calculator', expression='6*7')}", say("42."), say("Bye."), code("1"), say("x")
    )
    with Session(engine, ByteTokenizer(), tools=named(["calculator"])) as session:
        told = [told_in(session, "What?"), told_in(session, "Bye")]
        again = [Told.from_json(turn.to_json()) for turn in told]
        assert again == told
        assert [turn.view.parts for turn in again] == [turn.view.parts for turn in told]
        from_messages = told_by(session.history)
    assert [turn.text for turn in from_messages] == ["What?", "Bye"]
    for found, kept in zip(from_messages, told, strict=True):
        assert [type(part) for part in found.view.parts] == [type(part) for part in kept.view.parts]
    [_, step, last] = from_messages[0].view.parts
    assert (step.name, step.call.arguments, step.result.text) == ("calculator", {"expression": "6*7"}, "42")
    assert last == Text("42.")


def test_pictures_can_be_left_out():
    told = Told("a", (), [ImageProduced(1, "image/png", b"x" * 100), DONE])
    assert [event["event"] for event in told.to_json(pictures=False)["events"]] == ["turn_done"]


def test_parts_are_plain_values():
    assert File("a", 1) == File("a", 1)
    assert "data" not in repr(Picture(0, "image/png", b"secret"))
    assert Step(1, "a").asks is None


def test_drawings_come_at_once_and_then_not_too_often():
    now, active = [0.0], [1]
    throttle = Throttle(lambda: active[0], lambda: now[0])
    assert throttle.wait(0) == 0
    assert throttle.wait(0) == SOONEST
    now[0] = SOONEST
    active[0] = 20
    assert throttle.wait(0) == 0
    assert throttle.wait(0) > 3 * SOONEST  # twenty share one processor
    now[0] = 10
    active[0] = 1
    assert throttle.wait(20_000) == 0
    assert throttle.wait(20_000) > 5 * SOONEST  # a long answer costs a browser more


def test_the_number_of_drawings_grows_slower_than_the_answer():
    """At a steady pace, ten times the text costs less than ten times the drawings."""
    counts = []
    for characters in (1000, 10_000, 100_000):
        now, drawn = [0.0], 0
        throttle = Throttle(clock=lambda now=now: now[0])
        for length in range(0, characters, 4):
            now[0] += 0.005
            drawn += throttle.wait(length) == 0
        counts.append(drawn)
    assert counts[2] < 5 * counts[1] < 50 * counts[0]


def test_a_dangerous_tool_is_one():
    assert remove.dangerous
    assert answers().modes == ("chat", "tool")


def test_another_picture_at_its_place_has_another_address():
    """Or a browser would show the one it has there already."""
    first, second = Picture(0, "image/png", b"one"), Picture(0, "image/png", b"two")
    assert picture_address(1, first) == picture_address(1, first) != picture_address(1, second)
    assert picture_address(1, first).startswith("chatglm/picture/1/0?")
