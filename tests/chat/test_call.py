import re
import warnings

import no_deadline  # noqa: F401
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.chat.call import extract_code, format_tool_call, parse_tool_call
from chatglm.errors import PromptError

TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
NAMES = st.from_regex(r"[a-zA-Z_查][\w]{0,9}", fullmatch=True) | st.sampled_from(["from", "class", "max-n", "True"])


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_written_calls_are_read_back(arguments):
    call = parse_tool_call(format_tool_call(arguments), "name")
    assert (call.name, call.arguments, call.error) == ("name", arguments, None)


@settings(max_examples=200)
@given(st.text() | st.text(alphabet="tool_call(a='\"\\=1,[]{}:-*.\n `#)").map(lambda text: "tool_call(" + text))
def test_nothing_raises_and_the_text_is_kept(text):
    call = parse_tool_call(text, "name")
    assert call.raw == text
    assert (call.arguments is None) == (call.error is not None)
    assert isinstance(extract_code(text), str)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("```python\ntool_call(city='北京')\n```", {"city": "北京"}),
        (" ```python\ntool_call(a=1)\n```\n查完了。", {"a": 1}),
        ("```\ntool_call(a=1)", {"a": 1}),
        ("tool_call(a=1)", {"a": 1}),
        ("```python tool_call(a=1)```", {"a": 1}),
        ("```tool_call(a=1)```", {"a": 1}),
        ("get_weather(a=1)", {"a": 1}),
        ("tool_call()", {}),
        ("# why\ntool_call(\n    a=1,\n    b='x',\n)", {"a": 1, "b": "x"}),
        ("tool_call(a=-1, b=+2.5, c=True, d=true)", {"a": -1, "b": 2.5, "c": True, "d": True}),
        ("tool_call(a=None, b=null, c=False, d=false)", {"a": None, "b": None, "c": False, "d": False}),
        ("tool_call(a={'b': [1, {'c': (2, 3)}]})", {"a": {"b": [1, {"c": (2, 3)}]}}),
        ("tool_call(from='a', max-n=1)", {"from": "a", "max-n": 1}),
        ("tool_call(a='x=1, from=2')", {"a": "x=1, from=2"}),
        (r"tool_call(a='\d', b=r'\d', c='\n', d='\u4e2d')", {"a": r"\d", "b": r"\d", "c": "\n", "d": "中"}),
        ("tool_call(a='''x\n```\ny''')", {"a": "x\n```\ny"}),
        ("```python\ntool_call(a='''x\n```\ny''')\n```", {"a": "x\n```\ny"}),
        ('```json\n{"a": true, "b": [null, "\\u4e2d"]}\n```', {"a": True, "b": [None, "中"]}),
        ("{'a': 1}", {"a": 1}),
        (
            "tool_call(a='x\ny', b=\"1\r\n2\\n\", from='3\\\n4', c='''5\n6''')",
            {"a": "x\ny", "b": "1\r\n2\n", "from": "34", "c": "5\n6"},
        ),
        ("```python\ntool_call(a='x\n```\n\"y\"')\n```", {"a": 'x\n```\n"y"'}),
        ('```json\n{"a": "x\ny"}\n```', {"a": "x\ny"}),
        (
            "tool_call(a=1e-5, b=1_000, c=0xff, d=1.5e3, e=1., f=.5)",
            {"a": 1e-5, "b": 1000, "c": 255, "d": 1500.0, "e": 1.0, "f": 0.5},
        ),
    ],
)
def test_calls_a_model_writes(text, arguments):
    call = parse_tool_call(text, "get_weather")
    assert (call.arguments, call.error) == (arguments, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a call"),
        ("你好", "not a call"),
        ("tool_call(1, 2)", "positional"),
        ("tool_call(a=1, a=2)", "'a' is given twice"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("tool_call(a={'b': 1, 'b': 2})", "'b' is given twice"),
        ("tool_call(**{'a': 1})", r"\*\*"),
        ("tool_call(a=", "never closed"),
        ("x = 1\ntool_call(a=x)", "not a call"),
        ("tool_call(a=x)", "'x' is not a literal"),
        ("tool_call(a=2 ** 10)", "2 .. 10.*nothing is computed"),
        ("tool_call(a=f'{1}')", "not a literal"),
        ("tool_call(a=b'1')", "not a literal"),
        ("tool_call(a={1, 2})", "not a literal"),
        ("tool_call(a=1j)", "not a literal"),
        ("tool_call(a=-True)", "not a literal"),
        ("tool_call(a=[i for i in (1,)])", "not a literal"),
        ("tool_call(a=1e999)", "not finite"),
        ('{"a": NaN}', "not finite|not a literal"),
        ('{"a": "\\ud800"}', "surrogate"),
        ("tool_call(a=1if 2 else 3)", "'1if' is no number"),
        ("tool_call(a='it's\nx')", "unterminated string"),
        ("other(a=1)", "not a call of this tool"),
        ("tool_call.x(a=1)", "must be tool_call"),
        ("[1]", "must be tool_call"),
        ("{1: 2}", "no object with names"),
    ],
)
def test_what_is_no_call_becomes_data(text, says):
    call = parse_tool_call(text, "get_weather")
    assert call.arguments is None
    assert re.search(says, call.error), call.error


def test_code_in_a_call_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr("os.getpid", lambda: ran.append("ran"))
    for text in (
        "__import__('os').getpid()",
        "tool_call(a=__import__('os').getpid())",
        "{'a': __import__('os').getpid()}",
    ):
        assert parse_tool_call(f"```python\n{text}\n```", "x").error
    assert not ran


HOSTILE = [
    "-" * 9999 + "1",
    "1" + "+1" * 4999,
    "1" + "+1" * 99999,
    "(" * 9999,
    "a" + ".a" * 99999,
    "tool_call(a=" + "[" * 9999,
    "tool_call(a='" + "\\'" * 99999,
    "a-" * 99999,
    "{" * 99999,
    '{"a":' * 99999,
    " " * 199999,
    "```" + " " * 199999 + "x",
    "```\n" * 49999,
    "\n" * 199999 + "x",
    "not " * 9999 + "1",
    "lambda:" * 9999,
    "'''" * 33333,
    "\0",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: f"{text[:12]!r}x{len(text)}")
def test_hostile_texts_end_soon(text):
    assert parse_tool_call(text, "x").error
    extract_code(text)


@pytest.mark.parametrize("text", ["tool_call(a=1if 2 else 3)", "0x1for x in y", "1.5and 2", "0o7or 1", "9.else"])
def test_reading_prints_no_warnings(text):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert parse_tool_call(text, "x").error
    assert not seen


def test_chains_of_operators_do_not_reach_the_parser():
    assert "199998 operators" in parse_tool_call("tool_call(a=" + "1+-" * 99999 + "1)").error


@pytest.mark.parametrize(
    "arguments",
    [
        {"a b": 1},
        {"": 1},
        {1: 1},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": {1, 2}},
        {"a": "\ud800"},
        {"a": object()},
    ],
)
def test_arguments_that_cannot_be_written(arguments):
    with pytest.raises(PromptError, match="cannot be written"):
        format_tool_call(arguments)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        (" ```python\nx = 1\nx\n```\n结果如下", "x = 1\nx"),
        ("好的：\n```python\nprint(1)\n```", "print(1)"),
        ("```\nprint(1)", "print(1)"),
        ("```python\nprint(1)```", "print(1)"),
        ("print(1)", "print(1)"),
        ("```python\na\n```\n```python\nb\n```", "a"),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_code_without_its_fences(text, code):
    assert extract_code(text) == code
