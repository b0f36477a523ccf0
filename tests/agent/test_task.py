"""A task is planned, worked through, changed where it fails, ended by its limits, and can be told again."""

import json
import threading
import time
from pathlib import Path

import pytest
from fake_sandbox import FakeSandbox
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import CALL, ByteTokenizer, ScriptedEngine, call, code, say

from chatglm.agent.events import ConsentAsked, Observation, PlanMade, StepEnded, TaskDone
from chatglm.agent.plan import CHINESE, gives_up, read_plan, why_failed
from chatglm.agent.replay import replay
from chatglm.agent.session import Session
from chatglm.agent.task import AgentTask, run_task
from chatglm.agent.trace import _read_line, read_trace
from chatglm.chat.message import ToolCallDone
from chatglm.chat.template import validate
from chatglm.errors import GenerationError, SessionError, TraceError
from chatglm.sandbox.result import FileInfo, Image, Output, Result
from chatglm.tools import tool


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@tool(dangerous=True)
def erase() -> str:
    """Erases everything."""
    return "erased"


def work(*script, task="Add 1, 2 and 3, then tell the result.", **options):
    names = ("system", "tools", "sandbox", "max_errors", "on_dangerous")
    of_session = {name: options.pop(name) for name in names if name in options}
    session = Session(ScriptedEngine(*script), ByteTokenizer(), **{"tools": [add]} | of_session)
    return AgentTask(session, task, **options)


def only(events, kind):
    return [event for event in events if isinstance(event, kind)]


PLAN = say("Plan:\n1. Add 1 and 2\n2. Add 3")
GOOD = (PLAN, call("add", a=1, b=2), say("It is 3."), call("add", a=3, b=3), say("It is 6."), say("The sum is 6."))


def test_a_task_is_planned_done_and_answered():
    task = work(*GOOD)
    events = list(task)
    assert only(events, PlanMade) == [PlanMade(("Add 1 and 2", "Add 3"), 0)]
    assert only(events, StepEnded) == [StepEnded(1, True, "It is 3."), StepEnded(2, True, "It is 6.")]
    assert events[-1] == task.result
    assert (task.result.answer, task.result.reason, task.result.steps) == ("The sum is 6.", "done", 2)
    asked = [message.content for message in task.session.history if str(message.role) == "user"]
    assert len(asked) == 4
    assert all("Add 1, 2 and 3" in prompt for prompt in asked), "every prompt says the task again"
    assert "1. Add 1 and 2 (done)\n2. Add 3" in asked[2]
    assert "It is 3." in asked[3]
    validate(task.session.history)


def test_chinese_tasks_are_spoken_to_in_chinese():
    task = work(say("第一步：打招呼"), say("你好"), say("完成"), task="打个招呼")
    assert only(task, PlanMade)[0].steps == ("打招呼",)
    assert task.session.history[1].content == CHINESE.plan.format(task="打个招呼", most=10)
    assert work(task="打个招呼", language="en").words is not CHINESE
    with pytest.raises(SessionError, match="'en' or 'zh'"):
        work(language="de")


@pytest.mark.parametrize(
    "failing",
    [
        (say("Failed: there is no file"),),
        (code("open('x')"), say("It went well.")),  # its last action failed, whatever it says
        (call("no"), call("no"), call("no")),  # more wrong calls than are answered
        (say(""),),
    ],
)
def test_a_failing_step_changes_the_plan(failing):
    script = [say("1. Try"), *failing, say("1. Try otherwise"), say("It worked."), say("Done.")]
    task = work(*script, sandbox=FakeSandbox(Result_error()), max_errors=2)
    events = list(task)
    assert [event.ok for event in only(events, StepEnded)] == [False, True]
    assert [plan.revision for plan in only(events, PlanMade)] == [0, 1]
    assert (task.result.reason, task.result.revisions) == ("done", 1)
    assert only(events, StepEnded)[0].text in [m for m in task.session.history if str(m.role) == "user"][2].content


def Result_error():
    return Result("error", (Output("error", "FileNotFoundError: x"),))


def test_a_task_that_keeps_failing_ends_with_an_honest_answer():
    failing = [say("1. Try"), say("Failed: no")] * 3
    task = work(*failing, say("It could not be done."), max_revisions=2)
    list(task)
    assert (task.result.reason, task.result.revisions, task.result.answer) == ("failed", 2, "It could not be done.")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ((say("Sure!"), say("I cannot."), say("Sorry, I do not know that.")), "failed"),
        ((say("1. Add"), say("6"), say("失败：没有工具")), "failed"),
        ((say("1. Add"), say("6"), say("")), "failed"),
        ((PLAN, call("add", a=1, b=2), say("3"), say("3"), say("I do not know who asked, but it is 3.")), "done"),
        ((say("1. Say hello"), say("Hello"), say("Sorry that it took so long: hello.")), "done"),
    ],
)
def test_a_task_is_not_done_where_the_answer_says_so(script, reason):
    task = work(*script)
    list(task)
    assert task.result.reason == reason


def test_a_model_that_makes_no_plan_does_the_task_in_one_step():
    task = work(say("Sure!"), say("6"), say("The sum is 6."))
    assert only(task, PlanMade)[0].steps == (task.task,)


@pytest.mark.parametrize("script", [[call("add", a=1, b=2)], ["\n same line "], [say("")], [say("1. a\n2. b")]])
def test_whatever_the_model_does_the_task_ends(script):
    task = work(*script * 2000, max_steps=4)
    list(task)
    assert task.result.steps <= 4
    assert task.session.limits.max_rounds == 10
    validate(task.session.history[:-1] + task.session.history[-1:])


def test_the_limit_of_steps():
    task = work(say("1. a\n2. b\n3. c"), say("a done"), say("b done"), say("unfinished"), max_steps=2)
    list(task)
    assert (task.result.reason, task.result.steps, task.result.answer) == ("steps", 2, "unfinished")


def test_the_limit_of_tokens():
    task = work(*GOOD, max_new_tokens=60)
    list(task)
    assert task.result.reason == "tokens"
    assert task._tokens <= 60 + 1
    assert task.result.answer == ""


@tool(timeout=20)
def hang() -> str:
    """Never answers."""
    time.sleep(4)
    return ""


@pytest.mark.parametrize("how", ["seconds", "abort"])
def test_time_and_stopping(how):
    task = work(PLAN, call("hang"), tools=[hang], max_seconds=0.4 if how == "seconds" else 30)
    if how == "abort":
        threading.Timer(0.3, task.stop).start()
    began = time.monotonic()
    list(task)
    assert time.monotonic() - began < 2
    assert task.result.reason == how
    task.session.engine.script = [say("still here")]
    assert list(task.session.send("and now?"))[-1].reason == "stop"


def test_stopping_the_session_stops_its_task():
    task = work(PLAN, call("add", a=1, b=2), say("3"), PLAN, say("3"), say("6"), say("6"))
    for event in task:
        if isinstance(event, ToolCallDone):
            task.session.stop()
    assert (task.result.reason, task.result.steps, task.result.answer) == ("abort", 1, "")


def test_an_engine_that_fails_leaves_a_trace(tmp_path):
    task = work(PLAN, RuntimeError("out of memory"), trace=tmp_path / "t.jsonl")
    with pytest.raises(GenerationError):
        list(task)
    assert "out of memory" in read_trace(tmp_path / "t.jsonl")[-1]["reason"]


@pytest.mark.parametrize(
    "wrong",
    [{"task": " "}, {"task": None}, {"max_steps": 0}, {"max_revisions": -1}, {"max_seconds": 0}, {"max_new_tokens": 0}],
)
def test_wrong_limits_are_refused(wrong):
    with pytest.raises(SessionError):
        work(**wrong)


# plans


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1. a\n2. b", ["a", "b"]),
        ("计划：\n1、查天气\n2、写总结", ["查天气", "写总结"]),
        ("第一步：查天气\n第2步 写总结", ["查天气", "写总结"]),
        ("Step 1: look\nstep 2) write", ["look", "write"]),
        ("步骤一：看\n步骤 2：写", ["看", "写"]),
        ("- a\n* b\n• c", ["a", "b", "c"]),
        ("**1. a**\n## 2) b", ["a", "b"]),
        ("1. a\n1. a", ["a"]),
        ("1.5 kg of flour\n2023年", []),
        ("nothing", []),
    ],
)
def test_plans_are_read_as_models_write_them(text, steps):
    assert read_plan(text) == steps


@given(st.text(alphabet="1. 第步一：-*a\n#Step", max_size=60))
def test_any_text_can_be_read_as_a_plan(text):
    steps = read_plan(text)
    assert all(step == step.strip() != "" and step in text for step in steps)


@pytest.mark.parametrize(
    ("text", "why"),
    [("失败：没有文件", "没有文件"), ("Failed: no file", "no file"), ("**失败**", None), ("失败是成功之母", None),
     ("失败", "失败"), ("It failed twice, then worked.", None), ("", None), ("failed", "failed")],
)  # fmt: skip
def test_failing_is_read(text, why):
    assert why_failed(text) == why


@pytest.mark.parametrize(
    ("text", "gives"),
    [("抱歉，我无法画图。", True), ("很抱歉，我现在还不能联网", True), ("我不知道。", True),
     ("I'm sorry, but I can't do that.", True),
     ("Unfortunately, I am unable to help.", True), ("不能被 3 整除的数是 4。", False), ("I know: it is 6.", False),
     ("It cannot be divided by 3.", False), ("", False), ("抱歉让您久等了：答案是 6。", False)],
)  # fmt: skip
def test_giving_up_is_read(text, gives):
    assert gives_up(text) is gives


# traces


def trace_of(tmp_path, *script, **options):
    path = tmp_path / "trace.jsonl"
    list(work(*script, trace=path, **options))
    return path


def test_a_trace_tells_everything_in_order(tmp_path):
    records = read_trace(trace_of(tmp_path, *GOOD))
    kinds = [record["kind"] for record in records]
    step = ["step", "action", "observation", "thought", "result"]
    assert kinds == ["task", "thought", "plan", *step, *step, "thought", "answer"]
    assert [record["time"] for record in records] == sorted(record["time"] for record in records)
    action, observation = records[4], records[5]
    assert (action["name"], action["arguments"], action["id"]) == ("add", {"a": 1, "b": 2}, observation["id"])
    assert (observation["text"], observation["status"]) == ("3", "ok")
    assert records[-1]["text"] == "The sum is 6."


def test_every_line_is_there_at_once(tmp_path):
    path = tmp_path / "trace.jsonl"
    task = iter(work(*GOOD, trace=path))
    for event in task:
        if isinstance(event, Observation):
            break
    assert json.loads(path.read_text().splitlines()[-1])["kind"] == "observation"
    task.close()
    assert read_trace(path)


def test_a_call_of_an_earlier_step_that_was_not_carried_out_takes_no_result(tmp_path):
    wrong = "<|assistant|>".join([call("no").removesuffix(CALL)] * 3) + CALL
    script = [PLAN, wrong, say("1. Add"), call("add", a=1, b=2), say("It is 3."), say("3")]
    records = read_trace(trace_of(tmp_path, *script, max_errors=0))
    actions = {record["id"]: record["name"] for record in records if record["kind"] == "action"}
    observations = {record["id"]: record["name"] for record in records if record["kind"] == "observation"}
    assert actions == {1: "no", 2: "no", 3: "no", 4: "add"}
    assert observations == {1: "no", 4: "add"}


def test_everything_an_action_brings_has_its_id(tmp_path):
    shown = Result(
        "killed", (Output("display", "", Image("image/png", b"png", 4, 3)),), (FileInfo("a", 1, 0.0),), reason="memory"
    )
    script = [say("1. go"), code("x"), call("erase"), say("ok"), say("done")]
    path = tmp_path / "t.jsonl"
    task = work(*script, trace=path, tools=[erase], sandbox=FakeSandbox(shown), on_dangerous="ask", max_revisions=0)
    for event in task:
        if isinstance(event, ConsentAsked):
            task.session.answer(event.id, False)
    found = [(record["kind"], record["id"]) for record in read_trace(path) if "id" in record]
    assert found == [("action", 1), ("observation", 1), ("image", 1), ("file", 1), ("notice", 1), ("action", 2),
                     ("asked", 2), ("observation", 2)]  # fmt: skip
    assert [step.same for step in replay(path, sandbox=FakeSandbox(shown)) if step.same is not None] == [True]


def test_a_trace_of_the_first_format_is_read():
    notice = {"kind": "notice", "about": "restarted", "text": "the interpreter was restarted"}
    path = Path(__file__).resolve().parents[2] / "examples" / "agent_trace.jsonl"
    records = read_trace(path)
    assert records[0]["version"] == 1
    assert [step.record for step in replay(path)] == records
    assert _read_line(json.dumps(notice), "line 1") == notice


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x1c", "\n", "\r\n", "\0"])
def test_odd_characters_in_a_trace(tmp_path, odd):
    path = trace_of(tmp_path, say("1. go"), say(f"a{odd}b"), say("done"))
    assert any(f"a{odd}b" in record.get("text", "") for record in read_trace(path))


def test_a_replay_compares_what_comes_out(tmp_path):
    path = trace_of(
        tmp_path, say("1. go"), call("add", a=1, b=2), call("erase"), code("1"), say("ok"), say("done"),
        tools=[add, erase], sandbox=FakeSandbox("1"), on_dangerous=lambda call: call.name == "nothing",
    )  # fmt: skip
    assert [step.same for step in replay(path) if step.same is not None] == []
    same = [step.same for step in replay(path, tools=[add, erase], sandbox=FakeSandbox("1")) if step.same is not None]
    assert same == [True, True], "what was refused then is not done now"
    different = [step for step in replay(path, sandbox=FakeSandbox("2")) if step.same is not None]
    assert [step.same for step in different] == [False]
    assert "2" in different[0].observed.text
    assert [step.record for step in replay(path)] == read_trace(path)


HEAD = '{"kind":"task","format":"chatglm-trace","version":1,"task":"t"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no trace"),
        ("not json", "line 1 .* is not JSON"),
        ("[" * 100_000, "line 1 .* is not JSON"),
        ("[]", "has the kind None"),
        ('{"kind":"task","task":"t"}', "is no trace"),
        (HEAD.replace("1", "3"), "trace version 3"),
        (HEAD + '{"kind":"dance"}', "line 2 .* has the kind 'dance'"),
        (HEAD + '{"kind":"action","name":"x"}', "line 2 .* has no valid 'id'"),
        (HEAD + '{"kind":"thought","text":3}', "line 2 .* has no valid 'text'"),
    ],
)
def test_a_file_that_is_no_trace(tmp_path, content, message):
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    with pytest.raises(TraceError, match=message):
        replay(path)
    if content:
        with pytest.raises(TraceError, match="was not overwritten"):
            work(trace=path)
        assert path.read_text() == content


@pytest.mark.parametrize("arguments", ["[1]", '"x"', "3"])
def test_a_trace_with_wrong_arguments(tmp_path, arguments):
    path = tmp_path / "t.jsonl"
    action = '{"kind":"action","id":1,"name":"add","arguments":' + arguments + "}\n"
    path.write_text(HEAD + action + '{"kind":"observation","id":1,"name":"add","text":"","ok":true,"status":"ok"}')
    with pytest.raises(TraceError, match="must be an object"):
        list(replay(path, tools=[add]))


def test_a_trace_that_cannot_be_written(tmp_path):
    with pytest.raises(TraceError, match="cannot be written"):
        work(trace=tmp_path / "no" / "t.jsonl")


def test_a_full_disk_ends_the_task_in_order(tmp_path):
    task = work(*GOOD, trace="/dev/full")
    with pytest.raises(TraceError, match="No space left"):
        list(task)
    task.session.engine.script = [say("still here")]
    assert list(task.session.send("and now?"))[-1].kept


def test_a_task_needs_a_session():
    with pytest.raises(SessionError, match="the session is a ScriptedEngine; it must be a chatglm.Session"):
        AgentTask(ScriptedEngine(), "Add.")


def test_nobody_could_be_asked_in_run_task():
    with pytest.raises(SessionError, match="nobody reads the events"):
        run_task(ScriptedEngine(), ByteTokenizer(), "Add.", on_dangerous="ask")


def test_run_task(tmp_path):
    result = run_task(
        ScriptedEngine(*GOOD), ByteTokenizer(), "Add.", tools=[add], trace=tmp_path / "t.jsonl", max_rounds=3
    )
    assert isinstance(result, TaskDone)
    assert result.answer == "The sum is 6."
    assert len(read_trace(tmp_path / "t.jsonl")) == 15
