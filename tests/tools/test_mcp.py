"""Tools of MCP servers: real ones over standard input and output and over HTTP, and every way to misbehave."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("mcp")

from chatglm.chat.message import ToolCall
from chatglm.errors import MissingExtraError, ToolError
from chatglm.tools import ToolBox, load_tools
from chatglm.tools.mcp import load_mcp
from chatglm.tools.mcp_config import read_mcp_file

SERVERS = Path(__file__).parent / "mcp_servers"


def real(**more):
    return {"command": sys.executable, "args": [str(SERVERS / "real.py")], **more}


def crude(mode, **more):
    return {"command": sys.executable, "args": ["-I", "-S", str(SERVERS / "crude.py"), mode], **more}


@pytest.fixture
def file(tmp_path):
    def write(**servers):
        path = tmp_path / "mcp.json"
        path.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
        return path

    return write


def call(box, _name, /, **arguments):
    return box.call(ToolCall(_name, arguments, ""))


def a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Two real servers and a crude one: a process, an address, and one that sends junk between its answers."""
    folder = tmp_path_factory.mktemp("mcp")
    port = a_free_port()
    os.environ["SECRET_OF_THE_HOST"] = "secret"
    web = subprocess.Popen([sys.executable, str(SERVERS / "real.py"), str(port)], stderr=subprocess.DEVNULL)
    (folder / "work").mkdir()
    servers = {
        "local": real(env={"GIVEN": "${SECRET_OF_THE_HOST:-no} ${NOT_SET:-default}"}, cwd="work"),
        "web server": {"type": "http", "url": f"http://127.0.0.1:{port}/mcp", "headers": {"X-Key": "1"}},
        "junk": crude("junk"),
        "absent": {"command": "no-such-program-at-all"},
        "off": {"command": "x", "disabled": True},
    }
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    with load_mcp(path, start_timeout=30, call_timeout=20) as found:
        yield found, ToolBox(found.tools()), folder
    web.terminate()
    web.wait(10)
    del os.environ["SECRET_OF_THE_HOST"]


def test_names_that_clash_get_the_name_of_their_server(running):
    found, box, _ = running
    names = ["add", "plan", "picture", "fail", "wait", "environment", "die"]
    assert box.names == [f"local__{name}" for name in names] + [f"web_server__{name}" for name in names] + ["echo"]
    assert "the tool add of the MCP server 'web server' is named web_server__add" in found.notes
    assert "the MCP server 'absent' did not start: there is no program 'no-such-program-at-all'" in found.notes
    assert len(found.notes) == 15


@pytest.mark.parametrize("server", ["local", "web_server"])
def test_calls_of_real_servers(running, server):
    _, box, _ = running
    assert call(box, f"{server}__add", first="40").text == "42"
    assert json.loads(call(box, f"{server}__plan", place={"city": "北京"}).text) == {"city": "北京", "days": 1}
    assert call(box, f"{server}__picture").text == "一张图：\n[image/png, 12 bytes]"
    assert "place.city is missing" in call(box, f"{server}__plan", place={}).text
    found = call(box, f"{server}__fail", text="no such <|user|>\nplace")
    assert (found.ok, found.kind) == (False, "exception")
    assert "no such <|user|> place" in found.text
    assert box[f"{server}__picture"].dangerous
    assert not box[f"{server}__add"].dangerous


def test_a_schema_is_written_out_for_the_model(running):
    _, box, _ = running
    assert box["local__plan"].schema() == {
        "name": "local__plan",
        "description": "Plans a journey.",
        "parameters": {
            "properties": {
                "place": {
                    "properties": {"city": {"type": "string"}, "days": {"default": 1, "type": "integer"}},
                    "required": ["city"],
                    "type": "object",
                }
            },
            "required": ["place"],
            "type": "object",
        },
    }


def test_a_server_sees_little_of_this_machine(running):
    _, box, folder = running
    given, _, where = call(box, "local__environment").text.splitlines()
    assert given == "secret default"
    assert where == str(folder / "work")
    assert "secret" not in call(box, "local__environment").text.splitlines()[1]


def test_calls_from_many_threads(running):
    _, box, _ = running
    results = {}

    def work(number):
        name = ("local__add", "web_server__add")[number % 2]
        results[number] = call(box, name, first=number, second=0).text

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: str(number) for number in range(16)}


def test_junk_between_answers_is_passed_over(running):
    _, box, _ = running
    assert call(box, "echo", a="北京").text == '{"a": "\\u5317\\u4eac"}'


def test_a_server_that_dies_is_started_again_once(file):
    with load_mcp(file(a=crude("dies")), start_timeout=10) as servers:
        box = ToolBox(servers.tools())
        died = call(box, "echo", a="die")
        assert not died.ok
        assert "the MCP server 'a' died during the call; it is started again for the next call" in died.text
        assert call(box, "echo", a=1).text == '{"a": 1}'
        assert "is started again" in call(box, "echo", a="die").text
        assert "it is not started again" in call(box, "echo", a="die").text
        began = time.monotonic()
        assert "'a' is dead; it was started again once" in call(box, "echo", a=1).text
        assert time.monotonic() - began < 1


def test_a_web_server_that_dies(file):
    port = a_free_port()
    command = [sys.executable, str(SERVERS / "real.py"), str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        with load_mcp(file(web={"url": f"http://127.0.0.1:{port}/mcp"}), start_timeout=10) as servers:
            box = ToolBox(servers.tools())
            assert call(box, "add", first=1).text == "3"
            assert "died during the call" in call(box, "die").text
            again = call(box, "add", first=1)
            assert not again.ok
            assert "did not start: ConnectError" in again.text
            assert "is dead" in call(box, "add", first=1).text
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("exit", "the MCP server 'a' did not start: .*it wrote: the key is missing"),
        ("junk only", "the MCP server 'a' did not start: it did not answer within 0.5 seconds"),
        pytest.param("slow", "did not start: it did not answer within 0.5 seconds", marks=pytest.mark.slow),
        ("endless", "the MCP server 'a' did not start: it offers more than 500 tools, or a list without an end"),
        ("many tools", "the MCP server 'a' did not start: it offers more than 500 tools"),
    ],
)
def test_servers_that_do_not_start(file, mode, says):
    began = time.monotonic()
    with pytest.raises(ToolError, match=says):
        load_mcp(file(a=crude(mode)), start_timeout=10 if mode in ("exit", "endless", "many tools") else 0.5).start()
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("silent", "the MCP server 'a' gave no answer within 0.3 seconds"),
        ("no result", "the MCP server 'a' gave no usable answer"),
        ("refuses", "the MCP server 'a' refused: not today, see x.log"),
    ],
)
def test_answers_that_are_none(file, mode, says):
    with load_mcp(file(a=crude(mode, timeout=0.3))) as servers:
        box = ToolBox(servers.tools())
        found = call(box, "echo", a=1)
        assert not found.ok
        assert says in found.text
        assert found.seconds < 3
        assert says in call(box, "echo", a=2).text  # it is still there


def test_tools_that_cannot_be_offered_are_noted(file):
    with load_mcp(file(a=crude("odd tools"))) as servers:
        assert [tool.name for tool in servers.tools()] == ["a__echo", "a__interpreter"]
        notes = "\n".join(servers.notes)
    assert "left out: a tool's name is 'two words'" in notes
    assert 'properties.a.pattern is "(", which cannot be read' in notes
    assert "a second tool a__echo" in notes
    assert servers.notes[0] == "the tool echo of the MCP server 'a' is named a__echo"


def test_always_a_prefix(file):
    with load_mcp(file(a=crude("plain")), always_prefix=True) as servers:
        assert [tool.name for tool in servers.tools()] == ["a__echo"]
        assert servers.notes == []


def test_after_the_end(file):
    servers = load_mcp(file(a=crude("plain")))
    with pytest.raises(ToolError, match="use them in a with block"):
        servers.tools()
    with servers:
        box = ToolBox(servers.tools())
        assert call(box, "echo").ok
    assert "the MCP servers were ended" in call(box, "echo").text
    servers.close()
    with servers:  # they can be started again
        assert call(ToolBox(servers.tools()), "echo").ok


def test_nothing_is_left_behind(file):
    def descriptors():
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    path = file(a=crude("plain"), b=crude("plain"), c=crude("exit"))
    with load_mcp(path):
        pass
    threads, before = threading.active_count(), descriptors()
    for _ in range(3):
        with load_mcp(path) as servers:
            names = [tool.name for tool in servers.tools()]
    assert names == ["a__echo", "b__echo"]
    late = time.monotonic() + 10  # what reads the servers' messages ends a moment after them
    while (left := (threading.active_count(), descriptors())) != (threads, before) and time.monotonic() < late:
        time.sleep(0.01)
    assert left == (threads, before)


def test_a_waiting_call_ends_with_the_servers(file):
    servers = load_mcp(file(a=crude("silent")))
    servers.start()
    results = []
    box = ToolBox(servers.tools())
    thread = threading.Thread(target=lambda: results.append(call(box, "echo")))
    thread.start()
    time.sleep(0.2)
    servers.close()
    thread.join(10)
    assert [found.ok for found in results] == [False]


# The file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", 'has no object "mcpServers"'),
        ('{"servers": {}}', 'has no object "mcpServers"'),
        ('{"mcpServers": {"a": 3}}', "must be an object"),
        ('{"mcpServers": {"a": {}}}', "has no 'command'"),
        ('{"mcpServers": {"a": {"type": "http"}}}', "has no 'url'"),
        ('{"mcpServers": {"a": {"type": "sse", "url": "http://x"}}}', "must be 'stdio' or 'http'"),
        ('{"mcpServers": {"a": {"url": "ftp://x"}}}', "must begin with http"),
        ('{"mcpServers": {"a": {"command": "x", "url": "http://x"}}}', "has the key 'command'"),
        ('{"mcpServers": {"a": {"command": "x", "arguments": []}}}', "key 'arguments', which is not known; known are"),
        ('{"mcpServers": {"a": {"command": "x", "args": "y"}}}', "must be a list of texts"),
        ('{"mcpServers": {"a": {"command": "x", "args": [3]}}}', "must be a text"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"A": 3}}}}', "A in env of the server 'a'.*must be a text"),
        ('{"mcpServers": {"a": {"command": "x", "timeout": -1}}}', "number of seconds above 0"),
        ('{"mcpServers": {"a": {"command": "${NO_SUCH_VARIABLE}"}}}', "NO_SUCH_VARIABLE, which is not set"),
    ],
)
def test_files_that_are_refused(tmp_path, text, says):
    path = tmp_path / "mcp.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ToolError, match=says):
        read_mcp_file(path)
    with pytest.raises(ToolError, match="cannot be read: No such file"):
        read_mcp_file(tmp_path / "none.json")


def test_secrets_are_not_shown(file, monkeypatch):
    monkeypatch.setenv("KEY", "secret")
    found = read_mcp_file(file(a=real(env={"A": "${KEY}"}), b={"url": "http://x", "headers": {"B": "${env:KEY}"}}))
    assert [(one.env, one.headers) for one in found] == [({"A": "secret"}, {}), ({}, {"B": "secret"})]
    assert "secret" not in repr(found)


def test_without_the_package(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingExtraError, match=r"chatglm\[mcp\]"):
        load_mcp(file(a=crude("plain")))


def test_the_tools_of_a_file_end_with_the_program(file):
    script = (
        "import sys\nfrom chatglm.tools import load_tools\n"
        "tools = load_tools(sys.argv[1])\nprint([tool.name for tool in tools], tools[0](a=1))"
    )
    path = file(a=crude("plain"), b={"command": "no-such-program"})
    found = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "['echo'] {\"a\": 1}\n")
    assert found.stderr == "chatglm: the MCP server 'b' did not start: there is no program 'no-such-program'\n"


# Python files

TOOLS = """
from __future__ import annotations
from dataclasses import dataclass
from chatglm.tools import calculator
from chatglm.tools import Tool, tool

@dataclass
class Place:
    city: str

@tool
def where(place: Place) -> str:
    \"\"\"Says where.\"\"\"
    return place.city

other = Tool.from_schema({"name": "other", "description": "x"}, lambda: "y")
again = where

def helper():
    pass
"""


def test_tools_of_a_python_file(tmp_path):
    path = tmp_path / "my tools.py"
    path.write_text(TOOLS, encoding="utf-8")
    tools = load_tools(path)
    assert [tool.name for tool in tools] == ["calculator", "where", "other"]
    assert call(ToolBox(tools), "where", place={"city": "x"}).text == "x"


def test_a_tool_file_may_import_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_tools.py").write_text("def twice(text):\n    return 2 * text\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('not the real one')")
    text = "import json\nfrom neighbour_of_tools import twice\nfrom chatglm.tools import tool\n"
    (tmp_path / "tools.py").write_text(text + "@tool\ndef echo(text):\n    'Says it twice.'\n    return twice(text)\n")
    assert call(ToolBox(load_tools(tmp_path / "tools.py")), "echo", text="ab").text == "abab"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.py", "x = 1", "has no tools; mark functions with @tool"),
        ("a.py", "x = 1\n1 / 0", "cannot be run: line 2: ZeroDivisionError"),
        ("a.py", "x = (", "cannot be run: line 1: SyntaxError"),
        ("a.py", "import no_such_module_here", "cannot be run: line 1: ModuleNotFoundError"),
        ("a.py", "raise SystemExit", "cannot be run: line 1: SystemExit"),
        (
            "a.py",
            "from chatglm.tools import tool\n@tool\ndef f(): pass",
            "line [23]: the tool f has no description",
        ),
        ("a.py", TOOLS + "two = tool(lambda: 1, name='other', description='z')", "two tools named 'other'"),
        ("a.txt", "", "neither a .py file with tools nor a .json file"),
        ("a.json", "{}", 'has no object "mcpServers"'),
    ],
)
def test_files_without_tools(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ToolError, match=says):
        load_tools(path)
    with pytest.raises(ToolError, match="there is no file"):
        load_tools(tmp_path / "none.py")
