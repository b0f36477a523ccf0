"""Standard streams that are closed, full or left by their reader, and text that begins with a byte order mark."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "chatglm"
BOM = "\ufeff"
COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "usage": ["chta"],
    "replay": ["agent", "--replay", "examples/agent_trace.jsonl"],
    "info": ["info", "src/chatglm/demo/weights"],
    "doctor": ["doctor"],
    "chat": ["chat", "你好", "--greedy", "--max-new-tokens", "4", "--stats"],
    "perplexity": ["perplexity", "--text", "TARGET.txt"],
    "convert": ["convert", "src/chatglm/demo/weights", "TARGET", "--to", "glm"],
}  # fmt: skip
LIGHT = ("help", "version", "usage", "replay")  # of these the start itself is tested; the others need torch


def run(words, redirection, python, target):
    """Exit status, standard output and standard error of a real process behind a shell's redirection."""
    words = [word.replace("TARGET", str(target)) for word in words]
    result = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *python, "-m", "chatglm", *words],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    for text in (result.stdout, result.stderr):
        assert "Traceback" not in text, result
        assert "Exception ignored" not in text, result
    return result


@pytest.mark.parametrize("name", COMMANDS)
def test_full_streams_end_in_a_word(name, python, tmp_path):
    (tmp_path / "target.txt").write_text("你好", encoding="utf-8")
    python = [sys.executable] if name in LIGHT else python
    quiet = run(COMMANDS[name], "2>/dev/full", python, tmp_path / "target")
    assert quiet.returncode == (2 if name == "usage" else 0)
    assert bool(quiet.stdout) == (name != "usage")
    assert name != "doctor" or ("torch " in quiet.stdout and "sandbox bubblewrap: " in quiet.stdout)
    if name == "usage":  # it says nothing on standard output
        return
    (tmp_path / "full.txt").write_text("你好", encoding="utf-8")
    full = run(COMMANDS[name], ">/dev/full", python, tmp_path / "full")
    assert full.returncode == 1
    assert full.stderr.endswith("chatglm: error: standard output cannot be written: No space left on device\n")


@pytest.mark.parametrize("name", LIGHT)
def test_nobody_needs_to_listen_to_standard_error(name, tmp_path):
    plain, closed = (run(COMMANDS[name], where, [sys.executable], tmp_path) for where in ("", "2>&-"))
    assert (closed.returncode, closed.stdout) == (plain.returncode, plain.stdout)
    assert run(COMMANDS[name], ">/dev/full 2>/dev/full", [sys.executable], tmp_path).returncode == (
        plain.returncode or 1
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_standard_output_is_refused_before_any_work(name, tmp_path):
    target = tmp_path / "target"
    result = run(COMMANDS[name], ">&-", [sys.executable], target)
    assert (result.returncode, "standard output is closed" in result.stderr) == (1, True)
    assert run(COMMANDS[name], ">&- 2>&-", [sys.executable], target).returncode == 1
    assert not target.exists()


def test_unbuffered_output_is_told_of_as_well():
    result = run(["--version"], ">/dev/full", ["env", "PYTHONUNBUFFERED=1", sys.executable], "")
    assert (result.returncode, "No space left" in result.stderr) == (1, True)


def test_a_reader_that_leaves_is_no_error():
    result = run(["--help"], "| true; exit 0", [sys.executable], "")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_file_that_is_opened_does_not_take_the_place_of_a_closed_stream():
    code = "import chatglm.cli.streams as s; s.Streams(); f = open('LICENSE'); print(f.fileno() > 2)"
    result = subprocess.run(
        ["sh", "-c", '"$@" <&- 2>&-', "sh", sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert result.stdout == "True\n"


def test_the_mark_never_reaches_the_model(python):
    command = [*python, "-m", "chatglm", "chat", "--greedy", "--max-new-tokens", "8"]
    outputs = {
        subprocess.run([*command, *words], input=text.encode(), capture_output=True, cwd=REPOSITORY).stdout
        for words, text in (([], "你好"), ([], BOM + "你好"), (["-"], BOM + "你好"), ([BOM + "你好"], ""))
    }
    assert len(outputs) == 1


def test_files_with_the_mark_read_like_those_without(tmp_path):
    from chatglm.agent.trace import read_trace
    from chatglm.chat.message import Message, Role
    from chatglm.chat.saved import load_file, save_file
    from chatglm.evaluate.perplexity import read_text
    from chatglm.tools.mcp_config import read_mcp_file

    def both(text, read):
        """What is read from a file with the mark, and from one without."""
        found = []
        for mark in ("", BOM):
            (tmp_path / "file.json").write_text(mark + text, encoding="utf-8")
            found.append(read(tmp_path / "file.json"))
        return found

    save_file(tmp_path / "saved.json", [Message(Role.USER, "你好")], "any")
    saved = (tmp_path / "saved.json").read_text(encoding="utf-8")
    trace = (REPOSITORY / "examples" / "agent_trace.jsonl").read_text(encoding="utf-8")
    servers = json.dumps({"mcpServers": {"one": {"command": "x"}}})
    for text, read in (("text\n", read_text), (saved, load_file), (trace, read_trace), (servers, read_mcp_file)):
        without, with_mark = both(text, read)
        assert repr(without) == repr(with_mark)


def test_every_reader_of_text_drops_the_mark():
    """`utf-8-sig` reads both kinds; files that come with the package, or with the system, have none."""
    own = ("demo", "sandbox")
    readers = re.compile(r"read_text\(encoding=\"utf-8\"")
    found = [path.name for path in SOURCE.rglob("*.py") if readers.search(path.read_text("utf-8"))]
    inside = {path.name for folder in own for path in (SOURCE / folder).rglob("*.py")}
    assert [name for name in found if name not in inside] == []
