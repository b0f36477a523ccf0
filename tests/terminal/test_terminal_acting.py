"""`chatglm chat` and `chatglm agent` with tools and code: what is shown, saved and asked, with a scripted model."""

import io
import json
import sys

import pytest
from agent.fake_sandbox import FakeSandbox
from agent.scripted_engine import ByteTokenizer, ScriptedEngine, call, code, say
from scripted import chat, model, said

from chatglm.chat.message import ToolCall
from chatglm.cli import build_parser
from chatglm.errors import ChatGLMError, SandboxError, ToolError, TraceError, UsageError
from chatglm.sandbox.result import FileInfo, Image, Output, Result
from chatglm.terminal import task as task_door
from chatglm.terminal import workbench
from chatglm.terminal.consent import person_decides
from chatglm.terminal.screen import Screen
from chatglm.terminal.start import start
from chatglm.terminal.workbench import open_workbench
from chatglm.tools import ToolBox
from chatglm.words import Words

TOOLS = '''
from chatglm.tools import tool


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@tool(dangerous=True)
def erase(name: str) -> str:
    """Erases something."""
    return "erased " + name
'''


@pytest.fixture
def tool_file(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text(TOOLS)
    return str(path)


@pytest.fixture
def sandbox(monkeypatch):
    """The interpreter that --code opens."""
    fake = FakeSandbox()
    monkeypatch.setattr(workbench, "_open_sandbox", lambda options: _Opened(fake))
    return fake


class _Opened:
    def __init__(self, fake):
        self.fake = fake

    def __enter__(self):
        return self.fake

    def __exit__(self, *_):
        self.fake.close()


def parsed(*arguments):
    return build_parser().parse_args(arguments)


class Terminal(io.StringIO):
    def isatty(self):
        return True


# one answer


def one_answer(monkeypatch, capsys, loaded, *arguments):
    monkeypatch.setattr(sys, "stdin", Terminal())
    status = start(parsed("chat", "--lang", "en", *arguments), lambda options: loaded)
    return status, *capsys.readouterr()


def test_the_answer_alone_is_written_to_standard_output(monkeypatch, capsys, tool_file):
    loaded = model("\n Let me see.<|assistant|>" + call("add", a=1, b=2), say("It is 3."))
    status, output, errors = one_answer(monkeypatch, capsys, loaded, "--tools", tool_file, "1 + 2?")
    assert (status, output) == (0, "Let me see.\nIt is 3.\n")
    assert errors.startswith("[add]\n```python\ntool_call(a=1, b=2)\n```\n[add: ok, 0.0 s]\n3\n")


def test_dangerous_tools_are_not_used_where_nobody_can_be_asked(monkeypatch, capsys, tool_file):
    loaded = model(call("erase", name="x"), say("no"))
    _, _, errors = one_answer(monkeypatch, capsys, loaded, "--tools", tool_file, "go")
    assert "[not allowed: erase]" in errors
    assert "erased" not in errors


def test_uploads_and_figures(monkeypatch, capsys, tmp_path, sandbox):
    (tmp_path / "a.csv").write_bytes(b"a,b\n")
    (tmp_path / "figure.png").write_bytes(b"mine")
    out = Result("ok", (Output("display", "", Image("image/png", b"new", 2, 2)),), (FileInfo("out.txt", 3, 0.0),))
    sandbox.script = [out]
    loaded = model(code("plot()"), say("done"))
    arguments = ("--code", "--upload", str(tmp_path / "a.csv"), "--output", str(tmp_path), "plot it")
    status, output, errors = one_answer(monkeypatch, capsys, loaded, *arguments)
    assert (status, output) == (0, "done\n")
    assert sandbox.files == {"a.csv": b"a,b\n"}
    assert sandbox.closed
    asked = bytes(token for token in loaded[0].prompts[0] if token < 256)
    assert b"#File: /mnt/data/a.csv\n#Size: 4\n#File uploaded\nplot it" in asked
    assert (tmp_path / "figure.png").read_bytes() == b"mine"
    assert (tmp_path / "figure-2.png").read_bytes() == b"new"
    assert f"[figure saved as {tmp_path}/figure-2.png]" in errors
    assert "/mnt/data/out.txt, 3 bytes" in errors


def test_a_turn_that_ends_at_a_limit_is_told(monkeypatch, capsys, tool_file):
    loaded = model(*[call("add", a=1, b=2)] * 11)
    status, _, errors = one_answer(monkeypatch, capsys, loaded, "--tools", tool_file, "go")
    assert status == 1
    assert errors.endswith("[ended: rounds]\n")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--upload", "x"], UsageError, "--upload has no meaning without"),
        (["--tier", "bubblewrap"], UsageError, "--tier has no meaning without"),
        (["--dangerously-run-unisolated"], UsageError, "--dangerously-run-unisolated has no meaning without"),
        (["--code", "--output", "no-such-folder"], UsageError, "must be a folder that exists"),
        (["--tools", "no.py"], ToolError, "no file 'no.py'"),
        (["--tools", "nothing"], ToolError, "no built-in tool 'nothing'"),
        (["--tools", "clock:x"], ToolError, "no built-in tool 'clock:x'"),
        (["--tools", "web_fetch"], ToolError, "--tools web_fetch:docs.python.org"),
        (["--tools", "web_fetch:a b"], ToolError, "must be a host name"),
        (["--tools", "read_file"], ToolError, "on the command line --code"),
        (["--code", "--tier", "bubblewrap", "--dangerously-run-unisolated"], SandboxError, "needs both"),
        (["--code", "--tier", "none"], SandboxError, "needs both"),
    ],
)
def test_checked_before_a_model_is_loaded(monkeypatch, arguments, error, message):
    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(error, match=message):
        start(parsed("chat", "hi", *arguments), lambda options: pytest.fail("a model was loaded"))


def test_hosts_of_web_fetch():
    with open_workbench(parsed("chat", "--tools", "calculator,web_fetch:a.org,web_fetch:*.b.org")) as bench:
        names = [tool.name for tool in bench.tools]
        told = ToolBox(bench.tools).call(ToolCall("web_fetch", {"url": "http://c.org"}, "")).text
    assert names == ["calculator", "web_fetch"]
    assert "allowed are: a.org, *.b.org" in told


def test_isolation_is_given_up_only_by_a_flag_that_says_so():
    for name in ("chat", "agent", "sandbox"):
        actions = build_parser()._subparsers._group_actions[0].choices[name]._actions
        weakening = [option for action in actions for option in action.option_strings if "isolated" in option]
        assert weakening == ["--dangerously-run-unisolated"]


def test_chatglm2_has_no_tools(monkeypatch, capsys, tool_file):
    with pytest.raises(ChatGLMError, match="ChatGLM2 was given tools"):
        one_answer(monkeypatch, capsys, model(version="chatglm2"), "--tools", tool_file, "hi")


# the interactive chat


def run(program, *lines):
    for line in lines:
        program.handle(line)
    return program.screen.stream.getvalue()


@pytest.fixture
def tools(tool_file):
    with open_workbench(parsed("chat", "--tools", tool_file)) as bench:
        return bench.tools


def test_calls_and_results_are_shown_and_kept(tmp_path, tools):
    program = chat(call("add", a=1, b=2), say("3"), say("again 3"), say("next"), seed=1, folder=tmp_path, tools=tools)
    output = run(program, "1 + 2?")
    assert output == "[add]\n```python\ntool_call(a=1, b=2)\n```\n[add: ok, 0.0 s]\n3\n3\n"
    assert [role for role, _ in said(program)] == ["user", "assistant", "observation", "assistant"]
    run(program, "/retry")
    assert [role for role, _ in said(program)] == ["user", "assistant"]
    run(program, f"/save {tmp_path}/talk.json", "/undo")
    assert said(program) == []
    run(program, f"/load {tmp_path}/talk.json", "more")
    assert said(program)[-1] == ("assistant", "next")
    seeds = [params.seed for params in program.session.engine.params]
    assert len(set(seeds)) >= 3


def test_the_system_prompt_stays_ones_own_whatever_tools_there_are(tmp_path, tools):
    program = chat(say("a"), say("b"), folder=tmp_path, tools=tools)
    run(program, "hi", "/system Be brief.", "ho", f"/save {tmp_path}/talk.json")
    other = chat(say("c"))
    run(other, f"/load {tmp_path}/talk.json")
    assert other.session.system == "Be brief."
    prompts = [bytes(t for t in prompt if t < 256) for prompt in program.session.engine.prompts]
    assert all(b'"name": "add"' in prompt for prompt in prompts)
    assert b"Be brief.\nAnswer the following" in prompts[1]


def test_conversations_of_sessions_are_read(tmp_path, tools):
    from chatglm.agent.session import Session

    session = Session(ScriptedEngine(say("one")), ByteTokenizer(), tools=tools, system="Be brief.")
    list(session.send("a"))
    session.save(tmp_path / "s.json")
    program = chat(say("two"), folder=tmp_path, tools=tools)
    run(program, f"/load {tmp_path}/s.json", "b")
    [prompt] = program.session.engine.prompts
    assert prompt[: len(session.engine.prompts[0])] == session.engine.prompts[0]


@pytest.mark.parametrize(
    ("answer", "allowed"), [("y\n", True), ("Yes\n", True), ("是", True), ("n\n", False), ("", False)]
)
def test_the_person_is_asked_about_dangerous_tools(tmp_path, tools, answer, allowed):
    questions = []
    screen = Screen(io.StringIO(), color=False)
    ask = person_decides(screen, lambda question: questions.append(question) or answer)
    program = chat(call("erase", name="\x1b[31mx"), say("ok"), folder=tmp_path, tools=tools, ask=ask)
    output = run(program, "go")
    assert ("erased" in output) is allowed
    assert len(questions) == 1
    assert "erase(name=" in questions[0]
    assert "\x1b" not in questions[0]


def test_files_of_the_interpreter(tmp_path):
    (tmp_path / "in put.txt").write_bytes(b"hello")
    sandbox = FakeSandbox()
    program = chat(RuntimeError("broken"), say("one"), say("two"), folder=tmp_path, sandbox=sandbox)
    output = run(program, "/files", f"/upload {tmp_path}/in put.txt", "/files", "what is it?")
    assert Words("en")("no_files") in output
    assert "in put.txt  5" in output
    assert "broken" in output
    run(program, "what is it?", "and?")
    assert said(program)[0][1].startswith("#File: /mnt/data/in put.txt\n#Size: 5\n#File uploaded\nwhat")
    assert said(program)[2][1] == "and?"
    run(program, "/get in put.txt", f"/upload {tmp_path}/nothing")
    assert (tmp_path / "in put-2.txt").read_bytes() == b"hello"
    assert "cannot be uploaded" in run(program)


@pytest.mark.parametrize("line", ["/upload x", "/files", "/get x"])
def test_without_an_interpreter_there_are_no_files(tmp_path, line):
    assert "needs the code interpreter" in run(chat(), line)


def test_undo_with_nothing_said(tmp_path):
    assert Words("zh")("nothing_to_undo") in run(chat(language="zh"), "/undo")


def test_results_cannot_steer_the_terminal(tmp_path):
    sandbox = FakeSandbox("\x1b]0;title\x07" + "x" * 5000)
    program = chat(code("1"), say("ok"), folder=tmp_path, sandbox=sandbox)
    output = run(program, "go")
    assert "\x1b" not in output
    assert "more characters]" in output


def test_ctrl_c_while_code_runs(tmp_path):
    import signal
    import threading

    sandbox = FakeSandbox("hang")
    program = chat(code("while True: pass"), say("fine"), folder=tmp_path, sandbox=sandbox)
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    output = run(program, "go")
    assert Words("en")("stopped") in output
    assert "fine" in run(program, "and now?")


# tasks


def agent(monkeypatch, capsys, loaded, *arguments, stdin=None):
    monkeypatch.setattr(sys, "stdin", stdin or io.StringIO())
    status = task_door.start_task(parsed("agent", "--lang", "en", *arguments), lambda options: loaded)
    return status, *capsys.readouterr()


PLAN = say("1. Add 1 and 2\n2. Erase x")
WORK = (PLAN, call("add", a=1, b=2), say("It is 3."), call("erase", name="x"), say("Erased."), say("All done."))


def test_a_task(monkeypatch, capsys, tmp_path, tool_file):
    trace = str(tmp_path / "t.jsonl")
    arguments = ("Add and erase.", "--tools", tool_file, "--yes", "--trace", trace)
    status, output, errors = agent(monkeypatch, capsys, model(*WORK), *arguments)
    assert (status, output) == (0, "All done.\n")
    for shown in ("Plan:\n1. Add 1 and 2", "--- step 1: Add 1 and 2", "[add: ok, ", "erased x", "[done: 2 steps"):
        assert shown in errors
    status, output, _ = agent(monkeypatch, capsys, None, "--replay", trace)
    assert status == 0
    assert "[the same now]" not in output
    status, output, _ = agent(monkeypatch, capsys, None, "--replay", trace, "--tools", tool_file, "--yes")
    assert (status, output.count("[the same now]")) == (0, 2)
    (tmp_path / "tools.py").write_text(TOOLS.replace("a + b", "a - b"))
    status, output, _ = agent(monkeypatch, capsys, None, "--replay", trace, "--tools", tool_file, "--yes")
    assert (status, output.count("[different now]\n-1")) == (1, 1)


def test_a_task_whose_dangerous_step_is_not_allowed(monkeypatch, capsys, tool_file):
    loaded = model(*WORK[:-1], *[say("1. Give up"), say("Failed: not allowed")] * 3, say("Could not."))
    status, output, errors = agent(monkeypatch, capsys, loaded, "Add and erase.", "--tools", tool_file)
    assert (status, output) == (1, "Could not.\n")
    assert "[not allowed: erase]" in errors
    assert "[failed: " in errors


def test_ctrl_c_ends_a_task(monkeypatch, capsys, sandbox):
    import signal
    import threading

    sandbox.script = ["hang"]
    threading.Timer(0.4, signal.raise_signal, [signal.SIGINT]).start()
    loaded = model(say("1. Wait"), code("while True: pass"))
    assert agent(monkeypatch, capsys, loaded, "Wait.", "--code")[0] == 130
    assert sandbox.closed


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], UsageError, "there is no TASK"),
        ([" "], UsageError, "there is no TASK"),
        (["x", "--replay", "t"], UsageError, "a TASK has no meaning with --replay"),
        (["--replay", "t", "--seed", "0"], UsageError, "--seed has no meaning"),
        (["--replay", "t", "--greedy"], UsageError, "--greedy has no meaning"),
        (["--replay", "no-such-file"], TraceError, "cannot be read"),
        (["x", "--max-steps", "0"], ChatGLMError, "--max-steps is 0"),
        (["x", "--max-seconds", "nan"], ChatGLMError, "max_seconds is nan"),
        (["x", "--trace", "/no/such/folder"], TraceError, "cannot be written: there is no folder '/no/such'"),
        (["x", "--code", "--upload", "/nowhere"], ChatGLMError, "cannot be uploaded: No such file"),
        (["x", "--trace", "/"], TraceError, "cannot be written: it is a folder"),
        (["x", "--trace", __file__], TraceError, "was not overwritten"),
        (["x", "--top-p", "7"], ChatGLMError, "--top-p is 7"),
    ],
)
def test_wrong_tasks(arguments, error, message):
    with pytest.raises(error, match=message):
        task_door.start_task(parsed("agent", *arguments), lambda options: pytest.fail("a model was loaded"))


def test_json_lines_for_other_programs(monkeypatch, capsys):
    from chatglm import cli

    with pytest.raises(SystemExit):
        cli.main(["sandbox"])
    assert "--jsonl" in capsys.readouterr().err
    assert cli.main(["sandbox", "--jsonl", "--tier", "none"]) == 1
    assert "needs both" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"op":"run","id":1,"code":"6*7"}\n')))
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    status = cli.main(["sandbox", "--jsonl"])
    if status == 1:
        pytest.skip(capsys.readouterr().err)
    out.seek(0)
    assert json.loads(out.read())["result"] == "42"


# switched on in the midst of a conversation


def test_code_is_switched_on_later(monkeypatch):
    fake = FakeSandbox(Result("ok", (Output("stdout", "4\n"),), ()))
    monkeypatch.setattr("chatglm.sandbox.open_sandbox", lambda tier: _Opened(fake))
    program = chat("hello", code("print(2 + 2)"), "It is 4.")
    program.handle("hi")
    assert "interpreter" not in program.session.history[0].content
    program.handle("/files")
    assert "/code switches it on" in program.screen.stream.getvalue()
    program.handle("/code")
    program.handle("/code")  # again: it says so, and opens no other
    assert program.screen.stream.getvalue().count("interpreter  runs Python") == 2
    program.handle("2 + 2?")
    assert fake.ran == ["print(2 + 2)"]
    assert program.session.history[-1].content == "It is 4."
    program.handle("/files")
    assert "There are no files" in program.screen.stream.getvalue()
    assert not fake.closed
    program.bench._opened.close()
    assert fake.closed


def test_a_model_without_code_says_so_and_nothing_stays_open(monkeypatch):
    fake = FakeSandbox()
    monkeypatch.setattr("chatglm.sandbox.open_sandbox", lambda tier: _Opened(fake))
    program = chat("hello", version="chatglm2")
    program.handle("/code")
    assert "ChatGLM2 was given a code interpreter" in program.screen.stream.getvalue()
    assert fake.closed
    assert (program.bench.sandbox, program.session.sandbox) == (None, None)
