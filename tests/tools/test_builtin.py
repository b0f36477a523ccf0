"""The calculator, the clock, files of a sandbox, and which tools there are."""

import datetime
import math
import re
import warnings

import no_deadline  # noqa: F401
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.chat.message import ToolCall
from chatglm.errors import SandboxError, ToolError
from chatglm.tools import ToolBox, builtin_tools, file_tools
from chatglm.tools.builtin.calculator import calculate, calculator
from chatglm.tools.builtin.clock import current_time, find_zone


def call(box, _name, /, **arguments):
    return box.call(ToolCall(_name, arguments, ""))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(3 + 4) * 2 ** 10", "7168"),
        ("3 × 4 ÷ 2 − 1 =", "5"),
        ("（1＋2）×3", "9"),
        ("2^3^2", "512"),
        ("-2 ** 2", "-4"),
        ("0.1 + 0.2", "0.3"),
        ("6 / 2", "3"),
        ("1 / 3", "0.333333333333333"),
        ("7 // 2 + 7 % 4", "6"),
        ("factorial(20)", str(math.factorial(20))),
        ("comb(5, 2) + perm(5)", "130"),
        ("sqrt(16) + √(9)", "7"),
        ("sin(pi / 2)", "1"),
        ("max(1, 2.5, -3)", "2.5"),
        ("mean([1, 2, 3]) + median(1, 9, 5)", "7"),
        ("prod(range_is_not_known)", None),
        ("round(2.567, 1)", "2.6"),
        ("round(2.5)", "2"),
        ("1e3", "1000"),
        ("1e300 * 1e3", "1e+303"),
        ("[1, 2 / 4]", "[1, 0.5]"),
        ("(-1) ** 99999999999", "-1"),
    ],
)
def test_calculations(expression, value):
    if value is None:
        pytest.raises(ToolError, calculate, expression)
    else:
        assert calculate(expression) == value


@given(st.recursive(st.integers(0, 99).map(str), lambda e: st.tuples(e, st.sampled_from("+-*"), e).map(" ".join)))
def test_whole_numbers_are_exact(expression):
    expected = 0
    for term in re.split(r"(?=[+-])", expression.replace(" ", "")):
        expected += math.prod(map(int, term.lstrip("+-").split("*"))) * (-1 if term.startswith("-") else 1)
    assert calculate(expression) == str(expected)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("1 / 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 9 ** 9", "too large"),
        ("10 ** 10 ** 10 ** 10", "too large"),
        ("(10 ** 2500) ** 2", "too large"),
        ("pow(10, 10 ** 9)", "too large"),
        ("2.0 ** 99999", "too large"),
        ("*".join(["10 ** 900"] * 9), "more than 3000 digits"),
        ("prod(9 ** 2000, 9 ** 2000)", "more than 3000 digits"),
        ("factorial(10 ** 9)", "up to 3000"),
        ("comb(10 ** 9, 10 ** 8)", "up to 3000"),
        ("round(5, -10 ** 9)", "at most 100 digits"),
        ("sqrt(-1)", "not defined"),
        ("(-8) ** 0.5", "no real number"),
        ("log(0)", "not defined"),
        ("min()", "not defined"),
        ("stdev([1])", "not defined"),
        ("__import__('os').system('true')", "cannot be calculated"),
        ("().__class__", "cannot be calculated"),
        ("open('x')", "cannot be calculated"),
        ("(lambda: 1)()", "cannot be calculated"),
        ("[x for x in (1, 2)]", "cannot be calculated"),
        ("True + 1", "cannot be calculated"),
        ("'a' * 9", "cannot be calculated"),
        ("1j", "cannot be calculated"),
        ("f'{1}'", "cannot be calculated"),
        ("1 << 9", "not arithmetic"),
        ("[1] + [2]", "a list stands where"),
        ("nothing(1)", "no function 'nothing'; the functions are: abs"),
        ("print(1)", "no function 'print'"),
        ("sin(1, 2)", "not defined"),
        ("sin(x=1)", "cannot be calculated"),
        ("", "no arithmetic expression"),
        ("1 +", "no arithmetic expression"),
        ("今天", "cannot be calculated"),
        ("(" * 400 + "1" + ")" * 400, "no arithmetic expression"),
        ("1" * 1001, "at most 1000"),
        ("x := 3", "no arithmetic expression"),
        ("\0", "."),
    ],
)
def test_what_is_not_calculated(expression, says):
    with pytest.raises(ToolError, match=says):
        calculate(expression)


@pytest.mark.parametrize("expression", ["1if 2else 3", "0x1for x", "'\\d'", "1and 2", "3.is 3", "1jor 2"])
def test_nothing_is_warned_about(expression):
    """Python's parser would warn on the screen where people chat."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ToolError, match="cannot be calculated"):
            calculate(expression)
    assert seen == []


def test_rounding():
    assert [calculate(f"round({what})") for what in ("2.567, 2", "2.5", "1234, -2")] == ["2.57", "2", "1200"]
    with pytest.raises(ToolError, match="no function 'round'|not defined"):
        calculate("round(1, 2, 3)")


@given(st.text(alphabet="0123456789.+-*/%^()[], efactorilpwsunmd'_", max_size=40))
def test_any_text_has_a_value_or_an_error(text):
    found = call(ToolBox([calculator]), "calculator", expression=text)
    assert found.ok or found.kind == "exception"
    assert "calculator failed: " in found.text or found.ok
    assert not re.search(r"[A-Z]\w+(Error|Warning)", found.text)


def test_the_calculator_as_a_tool():
    box = ToolBox([calculator])
    assert call(box, "calculator", expression="1 + 1").text == "2"
    assert call(box, "calculator", expression=11).text == "11"
    assert call(box, "calculator", expression="1/0").text == (
        "Error: calculator failed: a division by zero has no value."
    )


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("Asia/Shanghai", 8),
        ("北京", 8),
        ("beijing", 8),
        ("tokyo", 9),
        ("UTC", 0),
        ("UTC+8", 8),
        ("GMT-3:30", -3.5),
        ("+05:30", 5.5),
    ],
)
def test_time_zones(name, hours):
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    assert moment.astimezone(find_zone(name)).utcoffset() == datetime.timedelta(hours=hours)


@pytest.mark.parametrize("name", ["../../etc/passwd", "Mars", "UTC+99", "a\0b", "x" * 500, "/etc/localtime"])
def test_time_zones_that_are_none(name):
    with pytest.raises(ToolError, match="there is no time zone"):
        find_zone(name)


def test_alike_time_zones_are_named():
    with pytest.raises(ToolError, match="alike are Asia/Tokyo"):
        find_zone("Tokio")


def test_the_current_time():
    pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+day, .+ \(UTC[+-]\d\d:\d\d\)"
    assert re.fullmatch(pattern, current_time())
    found = current_time("UTC+8")
    assert re.fullmatch(pattern, found)
    told = datetime.datetime.strptime(found[:19], "%Y-%m-%d %H:%M:%S")
    now = datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=8))).replace(tzinfo=None)
    assert abs((now - told).total_seconds()) < 60
    assert told.strftime("%A") in found


class Store:
    """A sandbox's files, and what it refuses."""

    def __init__(self):
        self.files = {}

    def put(self, name, data):
        if name == "refused.txt":
            raise SandboxError("the file name 'refused.txt' is not acceptable")
        self.files[name] = data

    def get(self, name):
        return self.files[name]

    def list(self):
        return list(self.files)


def test_files_of_a_sandbox():
    box = ToolBox(file_tools(Store()))
    assert box.names == ["list_files", "read_file", "write_file"]
    assert call(box, "list_files").text == "There are no files."
    assert call(box, "write_file", name="/mnt/data/诗.txt", text="一\n二\n三").text == (
        "/mnt/data/诗.txt has 11 bytes now."
    )
    assert call(box, "list_files").text == "诗.txt"
    assert call(box, "read_file", name="诗.txt").text == "一\n二\n三"
    assert call(box, "read_file", name="诗.txt", start=2).text == "二\n三"
    assert "has 3 lines" in call(box, "read_file", name="诗.txt", start=9).text
    assert "counted from 1" in call(box, "read_file", name="诗.txt", start=0).text
    assert "is not acceptable" in call(box, "write_file", name="refused.txt", text="").text
    box["write_file"](name="b.bin", text="")
    assert call(box, "read_file", name="b.bin").text == "(the file is empty)"


def test_files_that_are_no_text():
    store = Store()
    store.files["a.png"] = b"\x89PNG\xff"
    found = call(ToolBox(file_tools(store)), "read_file", name="a.png")
    assert "is no text file; it has 5 bytes" in found.text


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "a\0b", "/mnt/data/", "\\x"])
def test_file_names_that_are_refused(name):
    store = Store()
    for tool, more in (("write_file", {"text": "x"}), ("read_file", {})):
        assert (
            "must be the name of a file in /mnt/data/" in call(ToolBox(file_tools(store)), tool, name=name, **more).text
        )
    assert store.files == {}


def test_which_tools_there_are():
    always = ["calculator", "current_time", "weather"]
    assert [tool.name for tool in builtin_tools()] == always
    everything = builtin_tools(allow_hosts=["example.org"], sandbox=Store())
    files = ["list_files", "read_file", "write_file"]
    assert [tool.name for tool in everything] == [*always, "web_fetch", *files]
    assert [tool.name for tool in builtin_tools(["weather", "calculator", "weather"])] == ["weather", "calculator"]
    assert builtin_tools([]) == []
    ToolBox(everything)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["shell"], "no built-in tool 'shell'; there are calculator, current_time, weather"),
        (["web_fetch"], "needs a list of hosts"),
        (["read_file"], "needs the code interpreter"),
        ("weather", "must be a list of names"),
    ],
)
def test_tools_that_are_not_there(names, says):
    with pytest.raises(ToolError, match=says):
        builtin_tools(names)
