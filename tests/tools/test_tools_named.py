"""Tools by the names people write on a command line, and what the room exports."""

import subprocess
import sys

import pytest

import chatglm.tools
from chatglm.errors import ToolError
from chatglm.tools import Tool, named, tool

FILE = '''
from chatglm.tools import tool

@tool
def double(number: int) -> int:
    """Doubles."""
    return 2 * number

@tool
def half(number: int) -> float:
    """Halves."""
    return number / 2
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some tools.py"
    path.write_text(FILE)
    return str(path)


def test_names_of_all_kinds_in_their_order(file):
    assert [found.name for found in named(f"calculator, {file}:half ,current_time")] == [
        "calculator",
        "half",
        "current_time",
    ]
    assert [found.name for found in named(file)] == ["double", "half"]
    assert [found.name for found in named([file, "weather"])] == ["double", "half", "weather"]
    assert named("") == named([]) == []


def test_hosts_are_those_of_all_names():
    (found,) = named(["web_fetch:a.example", "web_fetch:*.b.example,web_fetch:a.example"])
    for host in ("a.example", "x.b.example"):
        assert "not allowed" not in str(found.check({"url": f"https://{host}/"}))
    assert found.name == "web_fetch"
    with pytest.raises(ToolError, match="web_fetch needs a list of hosts"):
        named("web_fetch")


def test_a_path_may_hold_a_comma(tmp_path):
    path = tmp_path / "a,b.py"
    path.write_text(FILE)
    assert [found.name for found in named(str(path))] == ["double", "half"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("calculater", "no built-in tool 'calculater'"),
        ("{file}:doubel", "has no tool 'doubel'; did you mean double[?]; it has double, half"),
        ("{file},{file}:half", "two tools have the name 'half', the second from"),
        ("nowhere.py", "there is no file 'nowhere.py'"),
        ("nowhere.py:a", "there is no file 'nowhere.py'"),
        ("nowhere.json", "there is no file 'nowhere.json'"),
        ("read_file", "needs the code interpreter's files"),
    ],
)
def test_names_that_stand_for_nothing(file, text, says):
    with pytest.raises(ToolError, match=says):
        named(text.format(file=file))


def test_every_name_of_the_room_is_there_and_is_no_module():
    for name in chatglm.tools.__all__:
        found = getattr(chatglm.tools, name)
        assert isinstance(found, Tool) or callable(found), name
    with pytest.raises(AttributeError, match="no attribute 'tols'"):
        _ = chatglm.tools.tols
    assert chatglm.tool is tool


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("import chatglm.tools", "asyncio pydantic jsonschema_rs docstring_parser"),
        ("from chatglm.agent.session import Session; from chatglm.tools import ToolBox; ToolBox()", "pydantic"),
        ("from chatglm.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", "asyncio pydantic"),
        ("from chatglm.tools import Tool; Tool.from_schema({'name': 'a'})", "pydantic docstring_parser"),
    ],
)
def test_what_is_not_needed_is_not_imported(program, heavy):
    program = f"import sys\n{program}\nprint('loaded:', [name for name in {heavy.split()} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert found.stdout.endswith("loaded: []\n"), found.stdout + found.stderr
