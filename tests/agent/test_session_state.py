"""What a session is between turns, and what one turn can be told: settings, system message, files, length, errors."""

import threading

import pytest
from fake_sandbox import FakeSandbox
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import ByteTokenizer, ScriptedEngine, call, code, say

from chatglm.agent.events import (
    CodeDone,
    ConsentAsked,
    FileProduced,
    ImageProduced,
    Notice,
    Observation,
    ToolCallDelta,
    ToolCallDone,
)
from chatglm.agent.prompts import CODE_PROMPT
from chatglm.agent.session import Session
from chatglm.chat.message import Message, Role
from chatglm.chat.saved import load_file
from chatglm.chat.template import TOOLS_PROMPT
from chatglm.engine.request import SamplingParams
from chatglm.errors import ContextFullError, GenerationError, PromptError, SessionError
from chatglm.sandbox.result import FileInfo, Image, Output, Result
from chatglm.tools.toolbox import tool


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@tool(dangerous=True)
def erase(name: str) -> str:
    """Erases something."""
    return f"erased {name}"


def session(*script, version="chatglm3", **options):
    return Session(ScriptedEngine(*script), ByteTokenizer(version), **options)


def only(events, *kinds):
    return [event for event in events if isinstance(event, kinds)]


def questions(talk):
    return [message.content for message in talk.history if message.role is Role.USER]


def answers(talk):
    return [message.content for message in talk.history if message.role is Role.ASSISTANT]


# what is wrong is said at once, and nobody else works on the conversation meanwhile


def test_what_is_wrong_with_a_call_is_said_at_the_call():
    talk = session(say("x"), context_length=100)
    for wrong in (lambda: talk.send(None), lambda: talk.send("x" * 200), lambda: talk.send("x", ["no such file"])):
        with pytest.raises((PromptError, SessionError)):
            wrong()
    for wrong in ({"params": {}}, {"max_new_tokens": 0}, {"max_seconds": -1}):
        for ask in (talk.send, talk.asend):
            with pytest.raises(SessionError, match=next(iter(wrong))):
                ask("x", **wrong)
        with pytest.raises(SessionError, match=next(iter(wrong))):
            talk.regenerate(**wrong)
    with pytest.raises(SessionError, match="nothing was said"):
        talk.regenerate()
    events = talk.send("go")
    next(events)
    for during in (talk.send, talk.asend, talk.set_system):
        with pytest.raises(SessionError, match="midst of a turn"):
            during("x")
    for during in (talk.undo, talk.clear, talk.regenerate):
        with pytest.raises(SessionError, match="midst of a turn"):
            during()
    list(events)
    talk.close()
    with pytest.raises(SessionError, match="closed"):
        talk.send("x")


def test_of_two_that_passed_the_check_one_is_read():
    talk = session("\n abc", say("x"))
    first, second = talk.send("a"), talk.send("b")
    next(first)
    with pytest.raises(SessionError, match="midst of a turn"):
        next(second)
    first.close()
    assert questions(talk) == ["a"]
    assert list(talk.send("c"))[-1].kept


def test_of_many_threads_one_is_read():
    hold, waits = threading.Event(), threading.Event()
    talk = session(lambda prompt: waits.set() or hold.wait(20) and say("x"))
    turns = [talk.send(str(number)) for number in range(8)]
    refused, threads = [], []

    def read(events):
        try:
            list(events)
        except SessionError as error:
            refused.append(error)

    for events in turns:
        threads.append(threading.Thread(target=read, args=(events,)))
        threads[-1].start()
    assert waits.wait(20)
    for thread in threads:
        thread.join(1 if len(refused) < 7 else 0)
    assert len(refused) == 7
    hold.set()
    for thread in threads:
        thread.join()
    assert len(questions(talk)) == 1


def test_regenerate_answers_what_is_last_when_it_is_read():
    talk = session(say("1"), say("2"), say("3"))
    list(talk.send("one"))
    again = talk.regenerate()
    list(talk.send("two"))
    list(again)
    assert (questions(talk), answers(talk)) == (["one", "two"], ["1", "3"])
    again = talk.regenerate()
    talk.clear()
    with pytest.raises(SessionError, match="nothing was said"):
        list(again)


def test_a_turn_that_is_read_late_goes_on_with_what_was_said_meanwhile():
    talk = session(say("1"), say("2"), say("3"))
    late = talk.send("late")
    list(talk.send("early"))
    list(late)
    assert questions(talk) == ["early", "late"]
    assert b"early" in bytes(token for token in talk.engine.prompts[-1] if token < 256)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Session(object(), ByteTokenizer()), "the engine is a object, which is no engine"),
        (lambda: Session(ByteTokenizer(), ScriptedEngine()), "the engine is a ByteTokenizer"),
        (lambda: Session(ScriptedEngine(), ScriptedEngine()), "the tokenizer is a ScriptedEngine"),
    ],
)
def test_something_that_is_no_engine(wrong, message):
    with pytest.raises(SessionError, match=message) as raised:
        wrong()
    assert "chatglm.engine_for(model, tokenizer), tokenizer" in str(raised.value)


@pytest.mark.parametrize("wrong", [{"when_full": "throw"}, {"on_dangerous": "yes"}])
def test_wrong_options(wrong):
    with pytest.raises(SessionError, match=f"{next(iter(wrong))} is '{next(iter(wrong.values()))}'"):
        session(**wrong)


# settings of one turn, seeds, times


def test_settings_of_one_turn():
    talk = session(*[say("abc")] * 3, params=SamplingParams(temperature=0.5), max_new_tokens=50)
    list(talk.send("a", params=SamplingParams(temperature=0), max_new_tokens=4))
    assert (talk.engine.params[0].temperature, talk.engine.params[0].max_tokens) == (0, 4)
    list(talk.regenerate(max_new_tokens=3))
    list(talk.regenerate(params=SamplingParams(top_k=3)))
    assert [(params.temperature, params.max_tokens) for params in talk.engine.params[1:]] == [(0.5, 3), (1, 50)]
    assert talk.engine.params[2].top_k == 3


def test_every_answer_has_the_seed_after_the_one_before():
    script = [call("add", a=1, b=2), say("3"), say("x"), call("add", a=1, b=2), call("add", a=1, b=2), say("y")]
    talk = session(*script, say("z"), tools=[add], params=SamplingParams(seed=7))
    list(talk.send("a"))
    list(talk.send("b"))
    list(talk.regenerate())
    assert [params.seed for params in talk.engine.params] == [7, 8, 9, 10, 11, 12]
    talk.undo()
    list(talk.send("c", params=SamplingParams(seed=2**63 - 1)))
    assert talk.engine.params[-1].seed == 5, "of seven answers so far the number is 6, around the largest seed"


def test_speed_leaves_out_prompts_and_tools():
    @tool
    def slow() -> str:
        """Takes a while."""
        threading.Event().wait(0.3)
        return "done"

    talk = session(call("slow"), say("abc"), tools=[slow])
    done = list(talk.send("go"))[-1]
    assert done.writing_seconds < 0.3 < done.seconds
    assert done.first_token_seconds < 0.3
    assert done.tokens_per_second == pytest.approx((done.new_tokens - 2) / done.writing_seconds)
    assert list(session(lambda prompt: "").send("go"))[-1].first_token_seconds is None


# length


def test_a_full_context_can_be_refused():
    talk = session(*[say("a" * 40)] * 9, context_length=300, when_full="refuse")
    with pytest.raises(ContextFullError) as raised:  # noqa: PT012
        for number in range(9):
            list(talk.send(f"question {number}"))
    said = talk.history
    assert (raised.value.limit, raised.value.tokens >= 300, len(said) % 2) == (300, True, 0)
    assert talk.window.left_out == 0
    assert all(b"question 0" in bytes(token for token in prompt if token < 256) for prompt in talk.engine.prompts)
    assert talk.history == said


@given(st.lists(st.sampled_from("ab你"), max_size=4), st.sampled_from(["chatglm3", "chatglm2"]))
def test_counting_is_what_the_next_prompt_begins_with(texts, version):
    talk = session(*[say("x")] * 9, version=version)
    assert talk.count_tokens() == 0
    for text in texts:
        list(talk.send(text))
        counted = talk.count_tokens()
        assert counted == len(talk.tokenizer.render(talk.history).ids)
        list(talk.send("y"))
        assert counted <= len(talk.engine.prompts[-1])
        talk.undo()
        assert talk.count_tokens() == counted


def test_counting_leaves_out_what_prompts_leave_out():
    talk = session(*[say("a" * 40)] * 9, context_length=300)
    for number in range(9):
        list(talk.send(f"question {number}"))
        assert talk.count_tokens() < 300
    assert talk.window.left_out > 0


def test_counting_follows_a_cut_of_a_turn_that_left_no_trace():
    talk = session(*[say("a" * 40)] * 3, RuntimeError("no"), context_length=300)
    for _ in range(3):
        list(talk.send("question"))
    before = talk.count_tokens()
    with pytest.raises(GenerationError):
        list(talk.send("q" * 110))
    assert talk.window.left_out > 0
    assert talk.count_tokens() < before


def test_counting_again_renders_nothing():
    talk = session(say("x"))
    list(talk.send("a"))
    counted = talk.count_tokens()
    talk.tokenizer.render = None
    assert talk.count_tokens() == counted


# the system message


def test_the_system_message_can_be_changed():
    talk = session(say("x"), say("y"), tools=[add])
    assert talk.system is None
    list(talk.send("a"))
    talk.set_system("Be brief.")
    assert talk.system == "Be brief."
    assert talk.history[0] == Message(Role.SYSTEM, f"Be brief.\n{TOOLS_PROMPT}", tools=[add.schema()])
    list(talk.send("b"))
    assert b"Be brief." in bytes(token for token in talk.engine.prompts[-1] if token < 256)
    talk.clear()
    assert talk.history == [talk.history[0]], "the system message stays"
    talk.set_system(None)
    assert (talk.system, talk.history[0].content) == (None, TOOLS_PROMPT)
    with pytest.raises(PromptError, match="surrogate"):
        talk.set_system("\ud800")
    with pytest.raises(SessionError, match="ChatGLM2"):
        session(version="chatglm2").set_system("x")
    session(version="chatglm2").set_system(None)


def test_clearing_forgets_turns_that_were_left_out():
    talk = session(*[say("a" * 40)] * 9, context_length=300)
    for _ in range(8):
        list(talk.send("question"))
    talk.clear()
    assert (talk.history, talk.window.left_out) == ([], 0)
    list(talk.send("again"))
    assert questions(talk) == ["again"]


# saved conversations


def saved(talk, path):
    talk.save(path)
    return load_file(path)


@tool
def multiply(a: int, b: int) -> int:
    """Multiplies two numbers."""
    return a * b


def test_going_on_with_a_saved_conversation(tmp_path):
    first = session(call("add", a=1, b=2), say("3"), tools=[add], system="Be brief.")
    list(first.send("go"))
    document = saved(first, tmp_path / "a.json")
    talk = session(say("old"), say("new"), tools=[multiply], system="Be long.")
    list(talk.send("old"))
    with pytest.raises(SessionError, match="offers the tools add"):
        talk.reopen(document)
    assert questions(talk) == ["old"]
    assert talk.reopen(document, other_tools=True) is True
    assert talk.history == [
        Message(Role.SYSTEM, f"Be brief.\n{TOOLS_PROMPT}", tools=[multiply.schema()]), *first.history[1:]
    ]  # fmt: skip
    assert talk.system == "Be brief."
    list(talk.send("more"))
    assert answers(talk)[-1] == "new"


def test_tools_that_are_not_there_are_known_to_the_model_only(tmp_path):
    first = session(say("x"), tools=[add])
    list(first.send("go"))
    talk = session(call("add", a=1, b=2), say("sorry"))
    talk.reopen(saved(first, tmp_path / "a.json"), other_tools=True)
    assert talk.history[0].tools == [add.schema()]
    events = list(talk.send("1 + 2?"))
    assert [event.status for event in only(events, Observation)] == ["invalid"]
    talk.set_system("Be brief.")
    assert talk.history[0] == Message(Role.SYSTEM, f"Be brief.\n{TOOLS_PROMPT}", tools=[add.schema()])


def test_words_about_code_are_not_ones_own(tmp_path):
    first = session(say("x"), sandbox=FakeSandbox())
    list(first.send("go"))
    document = saved(first, tmp_path / "a.json")
    assert document.messages[0].content == CODE_PROMPT
    talk = session(tools=[add])
    talk.reopen(document)
    assert talk.system is None
    assert talk.history[0].content == TOOLS_PROMPT, "there is no code in this session"


def test_a_saved_system_message_is_not_changed_without_need(tmp_path):
    first = session(say("x"), system="Be brief.\n")
    list(first.send("go"))
    talk = session()
    talk.reopen(saved(first, tmp_path / "a.json"))
    assert talk.history == first.history
    plain = session(say("x"))
    list(plain.send("go"))
    talk.reopen(saved(plain, tmp_path / "b.json"))
    assert talk.system is None
    assert talk.history == plain.history


def test_a_saved_system_message_is_none_of_chatglm2(tmp_path):
    first = session(say("x"), system="Be brief.")
    list(first.send("go"))
    first.save(tmp_path / "a.json")
    with pytest.raises(SessionError, match="ChatGLM2"):
        Session.load(tmp_path / "a.json", ScriptedEngine(), ByteTokenizer("chatglm2"))


# files


def test_an_upload_is_told_with_the_next_message():
    talk = session(RuntimeError("no"), say("x"), say("y"), sandbox=FakeSandbox())
    assert talk.upload(("a.txt", b"123")) == ("a.txt", 3)
    assert talk.sandbox.files == {"a.txt": b"123"}
    talk.upload(("b.txt", b""))
    talk.upload(("a.txt", b"1"))
    with pytest.raises(Exception, match="no"):
        list(talk.send("lost", files=[("c.txt", b"")]))
    list(talk.send("go"))
    told = "".join(f"#File: /mnt/data/{name}\n#Size: {size}\n#File uploaded\n" for name, size in
                   [("b.txt", 0), ("a.txt", 1), ("c.txt", 0)])  # fmt: skip
    assert questions(talk) == [f"{told}go"]
    list(talk.send("once"))
    assert questions(talk)[-1] == "once"


def test_a_turn_that_is_left_has_told_of_the_files():
    talk = session("\n abc def", say("x"), sandbox=FakeSandbox())
    events = talk.send("go", files=[("a.txt", b"")])
    next(events)
    events.close()
    list(talk.send("more"))
    assert questions(talk)[-1] == "more"


def test_uploads_need_an_interpreter_and_a_session_at_rest():
    with pytest.raises(SessionError, match="no code interpreter"):
        session().upload(("a.txt", b""))
    talk = session("\n abc", sandbox=FakeSandbox())
    events = talk.send("go")
    next(events)
    with pytest.raises(SessionError, match="midst of a turn"):
        talk.upload(("a.txt", b""))


# ids


def test_every_call_and_cell_has_an_id_of_its_own_and_what_came_of_it_has_the_same():
    picture = Image("image/png", b"png", 4, 3)
    shown = Result("ok", (Output("display", "<Figure>", picture),), (FileInfo("a.csv", 12, 0.0),))
    both = call("add", a=1, b=2).removesuffix("<|observation|>") + "<|assistant|>" + code("plot()")
    script = [both, code("die()"), say("done"), call("add", a=3, b=4), say("7")]
    talk = session(*script, tools=[add], sandbox=FakeSandbox(shown, Result("killed", reason="memory")))
    events = list(talk.send("a")) + list(talk.send("b"))
    assert [event.id for event in only(events, ToolCallDone, CodeDone)] == [1, 2, 3, 4]
    assert [(event.id, event.name) for event in only(events, Observation)] == [
        (1, "add"), (2, "interpreter"), (3, "interpreter"), (4, "add")
    ]  # fmt: skip
    assert {event.id for event in only(events, ToolCallDelta)} == {1, 2, 3, 4}
    assert [event.id for event in only(events, ImageProduced, FileProduced)] == [2, 2]
    assert only(events, Notice) == [Notice("restarted", 3, reason="memory")]


# consent


def asked(talk, reply, **options):
    """The observations of a turn; `reply` is told each question while the turn waits."""
    found = []
    for event in talk.send("go", **options):
        if isinstance(event, ConsentAsked):
            assert event.call.arguments == {"name": "x"}
            reply(event.id)
        found += only([event], Observation)
    return [event.status for event in found]


@pytest.mark.parametrize(("allowed", "status"), [(True, "ok"), (False, "refused"), (1, "refused"), ("yes", "refused")])
def test_asking_is_an_event_and_only_true_allows(allowed, status):
    talk = session(call("erase", name="x"), say("ok"), tools=[erase], on_dangerous="ask")
    assert asked(talk, lambda number: talk.answer(number, allowed)) == [status]


def test_any_thread_may_answer():
    talk = session(call("erase", name="x"), say("ok"), tools=[erase], on_dangerous="ask")
    assert asked(talk, lambda number: threading.Timer(0.2, talk.answer, (number, True)).start()) == ["ok"]


def test_no_answer_is_a_no():
    talk = session(call("erase", name="x"), tools=[erase], on_dangerous="ask")
    assert asked(talk, lambda number: threading.Timer(0.2, talk.stop).start()) == ["refused"]
    talk = session(call("erase", name="x"), tools=[erase], on_dangerous="ask")
    assert asked(talk, lambda number: None, max_seconds=0.2) == ["refused"]
    with pytest.raises(SessionError, match="no call 1 waits"):
        talk.answer(1, True)


def test_a_question_is_answered_once_and_ends_with_its_turn():
    talk = session(call("erase", name="x"), say("ok"), tools=[erase], on_dangerous="ask")

    def twice(number):
        talk.answer(number, False)
        with pytest.raises(SessionError, match="once"):
            talk.answer(number, True)

    assert asked(talk, twice) == ["refused"]
    talk = session(call("erase", name="x"), say("ok"), tools=[erase], on_dangerous="ask")
    for event in talk.send("go"):
        if isinstance(event, ConsentAsked):
            break
    with pytest.raises(SessionError, match="no call"):
        talk.answer(event.id, True)
    assert "not carried out" in talk.history[-1].content


def test_nobody_is_asked_about_what_is_wrong_or_harmless():
    script = [call("erase", nme="x"), call("add", a=1, b=2), say("ok")]
    talk = session(*script, tools=[erase, add], on_dangerous="ask")
    assert only(list(talk.send("go")), ConsentAsked) == []
