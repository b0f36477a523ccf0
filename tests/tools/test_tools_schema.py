"""What a function is described as, and how its arguments reach it."""

import datetime
import decimal
import enum
import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, Union

import no_deadline  # noqa: F401
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from chatglm.chat.message import ToolCall
from chatglm.errors import ToolError
from chatglm.tools import Tool, ToolBox, tool
from chatglm.tools.checking import Checker
from chatglm.tools.function import read_docstring


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


@dataclass
class Place:
    city: str
    days: int = 1
    tags: list[str] = field(default_factory=list)


class Options(TypedDict):
    unit: Unit
    place: Place


class Extended(TypedDict, total=False):
    a: Annotated[int, "counted"]


class Node(NamedTuple):
    a: int


class Person(BaseModel):
    name: str = Field(description="full name", min_length=2)
    age: int | None = None


class Team(BaseModel):
    lead: Person
    members: list[Person] = []


UserId = NewType("UserId", int)


def taking(kind):
    """A tool with one argument of a type, which gives it back."""

    def function(a):
        return a

    function.__annotations__["a"] = kind
    return tool(function, description="Takes one.")


def schema_of(kind):
    return taking(kind).parameters["properties"]["a"]


def check_value(value, schema):
    return Checker(schema).check(value)


@pytest.mark.parametrize(
    ("kind", "schema", "value", "expected"),
    [
        (str, {"type": "string"}, "a", "a"),
        (int, {"type": "integer"}, 3, 3),
        (float, {"type": "number"}, 3, 3.0),
        (bool, {"type": "boolean"}, True, True),
        (Any, {}, {"a": [1]}, {"a": [1]}),
        (UserId, {"type": "integer"}, 3, 3),
        (list, {"type": "array"}, [1, "a"], [1, "a"]),
        (list[int], {"type": "array", "items": {"type": "integer"}}, [1], [1]),
        (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ["a"], {"a"}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}, [1, 2], (1, 2)),
        (
            tuple[int, Unit],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string", "enum": ["c", "f"]}],
                "minItems": 2,
                "maxItems": 2,
            },
            [1, "f"],
            (1, Unit.FAHRENHEIT),
        ),
        (dict, {"type": "object"}, {"a": 1}, {"a": 1}),
        (
            dict[str, Place],
            {"type": "object", "additionalProperties": schema_of(Place)},
            {"a": {"city": "b"}},
            {"a": Place("b")},
        ),
        (Literal["a", 1], {"type": ["string", "integer"], "enum": ["a", 1]}, 1, 1),
        (Optional[int], {"type": ["integer", "null"]}, None, None),  # noqa: UP045
        (Union[int, str], {"type": ["integer", "string"]}, "3", "3"),  # noqa: UP007
        (Unit | None, {"type": ["string", "null"], "enum": ["c", "f", None]}, "c", Unit.CELSIUS),
        (Unit | None, {"type": ["string", "null"], "enum": ["c", "f", None]}, None, None),
        (
            list[int] | dict[str, int],
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "integer"}},
                    {"type": "object", "additionalProperties": {"type": "integer"}},
                ]
            },
            {"a": 1},
            {"a": 1},
        ),
        (
            datetime.date | None,
            {"type": ["string", "null"], "format": "date"},
            "2026-01-02",
            datetime.date(2026, 1, 2),
        ),
        (
            datetime.datetime,
            {"type": "string", "format": "date-time"},
            "2026-01-02T03:04:05Z",
            datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        ),
        (decimal.Decimal, {"type": ["number", "string"]}, "1.10", decimal.Decimal("1.10")),
        (bytes, {"type": "string", "format": "binary"}, "é", "é".encode()),
        (dict[int, str], {"type": "object", "additionalProperties": {"type": "string"}}, {"3": "a"}, {3: "a"}),
        (
            Node,
            {"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 1, "maxItems": 1},
            [3],
            Node(3),
        ),
        (Literal["a"], {"type": "string", "enum": ["a"]}, "a", "a"),
        (list[Options] | None, {"type": ["array", "null"], "items": schema_of(Options)}, None, None),
        (
            Extended,
            {
                "type": "object",
                "properties": {"a": {"type": "integer", "description": "counted"}},
                "additionalProperties": False,
            },
            {},
            {},
        ),
        (uuid.UUID, {"type": "string", "format": "uuid"}, str(uuid.UUID(int=5)), uuid.UUID(int=5)),
        (Path, {"type": "string", "format": "path"}, "a/b", Path("a/b")),
        (
            Options,
            {
                "type": "object",
                "properties": {
                    "unit": {"type": "string", "enum": ["c", "f"]},
                    "place": {
                        "type": "object",
                        "properties": {
                            "city": {"type": "string"},
                            "days": {"type": "integer", "default": 1},
                            "tags": {"type": "array", "items": {"type": "string"}},
                        },
                        "required": ["city"],
                        "additionalProperties": False,
                    },
                },
                "required": ["unit", "place"],
                "additionalProperties": False,
            },
            {"unit": "f", "place": {"city": "x", "tags": ["y"]}},
            {"unit": Unit.FAHRENHEIT, "place": Place("x", 1, ["y"])},
        ),
        (
            Team,
            {
                "type": "object",
                "properties": {
                    "lead": schema_of(Person),
                    "members": {"type": "array", "items": schema_of(Person), "default": []},
                },
                "required": ["lead"],
            },
            {"lead": {"name": "Li Lei"}},
            Team(lead=Person(name="Li Lei")),
        ),
        (Annotated[int, Field(ge=1, lt=8)], {"type": "integer", "minimum": 1, "exclusiveMaximum": 8}, 7, 7),
        (Annotated[list[int], Field(max_length=2)], {**schema_of(list[int]), "maxItems": 2}, [1], [1]),
    ],
)
def test_types_and_their_values(kind, schema, value, expected):
    made = taking(kind)
    assert made.parameters["properties"]["a"] == schema
    assert made.check({"a": value}) == ({"a": value}, [])
    built = made.build({"a": value})["a"]
    assert built == expected
    assert type(built) is type(expected)


def test_an_official_annotation():
    @tool
    def get_weather(city: Annotated[str, "The name of the city", True], days: Annotated[int, "How many", False] = 1):
        """
        Get the weather of a city
        """

    assert get_weather.schema() == {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The name of the city"},
                "days": {"type": "integer", "description": "How many", "default": 1},
            },
            "required": ["city"],
        },
    }
    assert get_weather.schema("composite") == {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "params": [
            {"name": "city", "description": "The name of the city", "type": "str", "required": True},
            {"name": "days", "description": "How many", "type": "int", "required": False},
        ],
    }


def google(city: str, days: int = 1):
    """Get the weather: today, and
    after it.

    More about it.

    Args:
        city (str): the city,
            in any language: also this
        days (int, optional): how many

    Returns:
        str: the weather
    """


def numpy(city: str, days: int = 1):
    """Get the weather: today, and
    after it.

    More about it.

    Parameters
    ----------
    city : str
        the city,
        in any language: also this
    days : int, optional
        how many

    Returns
    -------
    str
        the weather
    """


def rest(city: str, days: int = 1):
    """Get the weather: today, and
    after it.

    More about it.

    :param city: the city,
        in any language: also this
    :param int days: how many
    :type days: int
    :returns: the weather
    """


@pytest.mark.parametrize("function", [google, numpy, rest])
def test_docstrings(function):
    made = tool(function)
    assert made.description == "Get the weather: today, and after it.\n\nMore about it."
    texts = {name: part["description"] for name, part in made.parameters["properties"].items()}
    assert texts == {"city": "the city, in any language: also this", "days": "how many"}


@given(st.text(alphabet="Args:\n -pm(){}*,abc参数：", max_size=80))
def test_no_docstring_breaks_the_description(text):
    def function(a: int = 0, m: int = 0):
        pass

    function.__doc__ = text
    made = tool(function, description="x" if not read_docstring(function)[0] else None)
    assert made.description.strip() == made.description != ""
    assert list(made.parameters["properties"]) == ["a", "m"]


def test_functions_of_all_kinds():
    class Shop:
        def price(self, item: str, count: int = 1) -> str:
            """Tells a price."""
            return f"{item} {count}"

        def __call__(self, item: str) -> str:
            """Tells a price."""
            return item

    partial = functools.partial(Shop().price, count=3)
    wrapped = functools.lru_cache(maxsize=None)(Shop().price)
    for function, name in ((Shop().price, None), (partial, "p"), (wrapped, None), (Shop(), "q")):
        box = ToolBox([tool(function, name=name)])
        result = box.call(ToolCall(box.names[0], {"item": "x"}, ""))
        assert result.ok, result
        assert result.text.startswith("x")


def test_a_function_stays_a_function():
    @tool(timeout=3, dangerous=True, max_result=10, name="twice", description="Doubles")
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == double(number=4) == 8
    assert (double.name, double.description, double.timeout, double.dangerous) == ("twice", "Doubles", 3, True)


def test_other_arguments_are_converted_too():
    @tool
    def label(city: str, **places: Place) -> str:
        """Labels."""
        return f"{city} {places}"

    box = ToolBox([label])
    assert label.parameters["additionalProperties"] == schema_of(Place)
    assert box.call(ToolCall("label", {"city": "a", "b": {"city": "c"}}, "")).text == f"a { {'b': Place('c')} }"
    assert box.call(ToolCall("label", {"city": "a", "b": 3}, "")).kind == "arguments"


def undescribed(a: int):
    pass


def positional(a: int, /):
    """x"""


def many(*numbers: int):
    """x"""


def unknown_name(a: "NoSuchType"):  # noqa: F821
    """x"""


class Unknown:
    pass


def no_json(a: Unknown):
    """x"""


def no_json_inside(a: list[dict[str, Callable]]):
    """x"""


@dataclass
class Tree:
    children: "list[Tree]"


def tree(a: Tree):
    """x"""


class Chain(BaseModel):
    following: "Chain | None" = None


def chain(a: Chain):
    """x"""


def not_optional(a: Annotated[int, "x", False]):
    """x"""


def yields(a: int):
    """x"""
    yield a


async def async_yields(a: int):
    """x"""
    yield a


def half_a_character(a: int):
    """x"""


half_a_character.__doc__ = "\ud800"


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (undescribed, "undescribed has no description; write a docstring"),
        (positional, "a of the tool positional can only be given by position"),
        (many, "numbers of the tool many can only be given by position"),
        (unknown_name, "annotations of the tool unknown_name.*NoSuchType"),
        (no_json, "a of the tool no_json is Unknown, which has no JSON form"),
        (no_json_inside, "a of the tool no_json_inside is .*, which has no JSON form"),
        (tree, "tool tree contains itself"),
        (chain, "contains itself"),
        (not_optional, "said to be optional but has no default"),
        (yields, "must return"),
        (async_yields, "must return"),
        (half_a_character, "lone surrogate"),
        (Place, "must be a function"),
        (3, "must be a function"),
        (print, "can only be given by position|no signature"),
        (lambda a: a, "a tool's name is '<lambda>'"),
    ],
)
def test_what_cannot_be_described(function, says):
    with pytest.raises(ToolError, match=says):
        tool(function)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "<|user|>", "x" * 65, "interpreter", 3, "a/b"])
def test_names_that_are_refused(name):
    with pytest.raises(ToolError, match="a tool's name is"):
        tool(google, name=name)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1}, {"timeout": float("inf")}, {"max_result": 0}])
def test_limits_that_are_refused(options):
    with pytest.raises(ToolError, match="must be a number"):
        tool(google, **options)
    with pytest.raises(ToolError, match="must be a number"):
        ToolBox([], **options)


# Schemas that others wrote

TRACK = {
    "name": "track",
    "description": "追踪指定股票的实时价格",
    "parameters": {
        "type": "object",
        "properties": {"symbol": {"description": "需要追踪的股票代码"}},
        "required": ["symbol"],
    },
}
GENERATOR = {
    "name": "random_number_generator",
    "description": "Generates a random number x, s.t. range[0] <= x < range[1]",
    "params": [
        {"name": "seed", "description": "The random seed used by the generator", "type": "int", "required": True},
        {
            "name": "range",
            "description": "The range of the generated numbers",
            "type": "tuple[int, int]",
            "required": True,
        },
    ],
}


def test_the_readme_form_is_kept_as_it_is():
    for schema in (TRACK, {"type": "function", "function": TRACK}):
        found = Tool.from_schema(schema, lambda symbol: symbol)
        assert found.schema() == TRACK
        assert list(found.schema()) == list(TRACK)
    found.schema()["name"] = "other"
    assert found.schema() == TRACK


def test_a_foreign_schema_need_not_say_more_than_the_name():
    """As in OpenAI's API, and in the official tests."""
    schema = {"name": "查天气", "emoji": "🌤", "none": None}
    found = Tool.from_schema(schema, lambda: "晴")
    assert found.schema() == schema
    assert ToolBox([found]).call(ToolCall("查天气", {}, "")).text == "晴"
    assert "takes no arguments" in ToolBox([found]).call(ToolCall("查天气", {"a": 1}, "")).text


def test_the_composite_form():
    found = Tool.from_schema(GENERATOR)
    assert found.schema() == {
        "name": "random_number_generator",
        "description": GENERATOR["description"],
        "parameters": {
            "type": "object",
            "properties": {
                "seed": {"type": "integer", "description": "The random seed used by the generator"},
                "range": {
                    "type": "array",
                    "prefixItems": [{"type": "integer"}, {"type": "integer"}],
                    "minItems": 2,
                    "maxItems": 2,
                    "description": "The range of the generated numbers",
                },
            },
            "required": ["seed", "range"],
        },
    }
    assert found.schema("composite") == GENERATOR
    with pytest.raises(ToolError, match="'official' or 'composite'"):
        found.schema("other")


@pytest.mark.parametrize(
    ("written", "schema"),
    [
        ("str", {"type": "string"}),
        ("list[dict[str, int]]", {"type": "array", "items": {"type": "object"}}),
        ("<class 'float'>", {"type": "number"}),
        ("string", {"type": "string"}),
        ("DataFrame", {}),
        (None, {}),
    ],
)
def test_types_of_the_composite_form(written, schema):
    item = {"name": "a", "description": "", "params": [{"name": "b", "type": written, "required": False}]}
    assert Tool.from_schema(item).parameters["properties"] == {"b": schema}


def with_parameters(**parameters):
    return {"name": "a", "description": "b", "parameters": parameters}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (3, "must be a dict with name"),
        ({"name": "a", "description": 3}, "description of the tool a is 3"),
        ({"name": "a\nb", "description": "c"}, "a tool's name is"),
        ({"name": "a", "description": "b", "params": 3}, "must be a list"),
        ({"name": "a", "description": "b", "params": [3]}, "must be a dict with a name"),
        ({"name": "a", "description": "b", "params": [], "parameters": {}}, "both params and parameters"),
        (with_parameters(type="array"), "not an object"),
        (with_parameters(type="object", properties=3), "properties must be an object, not 3"),
        (
            with_parameters(type="object", properties={"c": {"type": "text"}}),
            'properties.c.type must be one of "array", .*, not "text"',
        ),
        (
            with_parameters(type="object", properties={"c": {"pattern": "("}}),
            'properties.c.pattern is "\\(", which cannot be read',
        ),
        (with_parameters(type="object", properties={"c": {"minimum": "3"}}), "must be a number"),
        (with_parameters(type="object", properties={"c": {"multipleOf": 0}}), "more than 0"),
        (with_parameters(type="object", required="c"), "required.*must be a list"),
        (with_parameters(type="object", properties={"c": {"$ref": "#/$defs/d"}}), "no such place"),
        (with_parameters(type="object", properties={"c": {"$ref": "http://x/y"}}), "point into the schema"),
        (
            with_parameters(
                type="object",
                properties={"c": {"$ref": "#/$defs/d"}},
                **{"$defs": {"d": {"$ref": "#/$defs/e"}, "e": {"$ref": "#/$defs/d"}}},
            ),
            "circle",
        ),
        (with_parameters(type="object", properties={"c": {"description": "x" * 300_000}}), "at most 200000"),
    ],
)
def test_schemas_that_are_refused(schema, says):
    with pytest.raises(ToolError, match=says):
        Tool.from_schema(schema)


def test_a_schema_is_not_nested_without_end():
    schema = {"type": "string"}
    for _ in range(60):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ToolError, match="nested more than"):
        Tool.from_schema(with_parameters(type="object", properties={"c": schema}))


# Values and what is wrong with them


@pytest.mark.parametrize(
    ("value", "schema", "found"),
    [
        ("3", {"type": "integer"}, 3),
        (3.0, {"type": "integer"}, 3.0),
        (" -7 ", {"type": "integer"}, -7),
        ("3.5", {"type": "number"}, 3.5),
        ("True", {"type": "boolean"}, True),
        (10111, {"type": "string"}, "10111"),
        ((1, "2"), {"type": "array", "items": {"type": "integer"}}, [1, 2]),
        ({"a": {"b": "1"}}, {"properties": {"a": {"additionalProperties": {"type": "integer"}}}}, {"a": {"b": 1}}),
        ("3", {"type": ["string", "integer"]}, "3"),
        ("3", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "3"),
        ("3", {"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, 3),
        (None, {"type": "string", "nullable": True}, None),
        ("2", {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, 2),
    ],
)
def test_harmless_coercions(value, schema, found):
    checked, problems = check_value(value, schema)
    assert (checked, problems) == (found, [])
    assert type(checked) is type(found)


@pytest.mark.parametrize(
    ("value", "schema", "says"),
    [
        (True, {"type": "integer"}, "the value must be a whole number, not true"),
        (1, {"type": "boolean"}, "the value must be true or false, not 1"),
        (1.5, {"type": "string"}, "the value must be a text, not 1.5"),
        (True, {"type": "string"}, "the value must be a text, not true"),
        (3.5, {"type": "integer"}, "the value must be a whole number, not 3.5"),
        ("3 days", {"type": "integer"}, 'the value must be a whole number, not "3 days"'),
        ("1e999", {"type": "number"}, 'the value must be a number, not "1e999"'),
        (None, {"type": "string"}, "the value must be a text, not null"),
        ("[1]", {"type": "array"}, 'the value must be a list, not "[1]"'),
        ({}, {"required": ["a"]}, "a is missing"),
        (
            {"a": {"c": 1}},
            {"properties": {"a": {"properties": {"b": {}}, "additionalProperties": False}}},
            "a.c is not known; known here: b",
        ),
        ({"a": [{"b": 1}, {}]}, {"properties": {"a": {"items": {"required": ["b"]}}}}, "a[1].b is missing"),
        ("x", {"enum": ["a", "b"]}, 'the value must be one of "a", "b", not "x"'),
        (True, {"enum": [1]}, "the value must be one of 1, not true"),
        (2, {"const": 1}, "the value must be one of 1, not 2"),
        (0, {"minimum": 1}, "the value must be at least 1, not 0"),
        (9, {"maximum": 8}, "the value must be at most 8, not 9"),
        (1, {"exclusiveMinimum": 1}, "the value must be more than 1, not 1"),
        (5, {"multipleOf": 2}, "the value must be a multiple of 2, not 5"),
        ("", {"minLength": 1}, "the value must have at least 1 characters, not 0"),
        ([1, 1], {"uniqueItems": True}, "the value must not hold the same item twice"),
        ([1], {"minItems": 2}, "the value must have at least 2 items, not 1"),
        ({"a": 1}, {"maxProperties": 0}, "the value must have at most 0 entries, not 1"),
        ("ab", {"pattern": "^[0-9]+$"}, 'the value must have the form ^[0-9]+$, unlike "ab"'),
        ([1, "a"], {"prefixItems": [{}, {"type": "null"}]}, 'the value[1] must be null, not "a"'),
        (
            3,
            {"anyOf": [{"type": "boolean"}, {"type": "array"}]},
            "the value must be true or false, not 3 or the value must be a list, not 3",
        ),
        (3, {"oneOf": [{"type": "integer"}, {"minimum": 1}]}, "the value fits more than one of the allowed forms"),
        (
            3,
            {"oneOf": [{"type": "integer"}, {"minimum": 1}, {"type": "string"}]},
            "the value fits more than one of the allowed forms",
        ),
        (3, {"not": {"type": "integer"}}, "the value must not be 3"),
        (
            "a" * 500 + "c",
            {"pattern": "(a*)*\\1b"},
            "the value must have the form (a*)*\\1b, unlike " + '"' + 76 * "a" + "...",
        ),
        ({"a": 3}, {"properties": {"a": False}}, "a must not be given"),
        (
            {"citty": 1},
            {"properties": {"city": {}}, "additionalProperties": False},
            "citty is not known; did you mean city?; known here: city",
        ),
        ([], {"contains": {"type": "string"}}, "the value: None of [] are valid under the given schema"),
        (
            {"ab": 1},
            {"propertyNames": {"maxLength": 1}},
            "a name in the value: the value must have at most 1 characters, not 2",
        ),
        (3, {"allOf": [{"type": "integer"}, {"minimum": 4}]}, "the value must be at least 4, not 3"),
    ],
)
def test_what_is_wrong_is_said_in_words(value, schema, says):
    checked, problems = check_value(value, schema)
    assert problems == [says.replace("the value[1]", "[1]")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from("string integer number boolean null object array".split())
SCHEMAS = st.recursive(
    st.builds(lambda kind: {"type": kind}, TYPES) | st.builds(lambda values: {"enum": values}, st.lists(JSON)),
    lambda inner: st.one_of(
        st.builds(lambda part: {"type": "array", "items": part}, inner),
        st.builds(lambda part: {"properties": {"a": part}, "additionalProperties": False}, inner),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=5,
)


@given(JSON, SCHEMAS)
def test_the_judgement_is_that_of_jsonschema(value, schema):
    """Whatever fits as it is, fits; whatever was brought to fit, fits afterwards."""
    jsonschema = pytest.importorskip("jsonschema")
    checked, problems = check_value(value, schema)
    fits = jsonschema.Draft202012Validator(schema).is_valid
    if fits(value):
        assert not problems
    if not problems and "not" not in str(schema):
        assert fits(checked)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "\ud800", {1, 2}, object()])
def test_what_json_does_not_have_is_no_value(value):
    for schema in ({}, {"type": "number"}, {"type": "string"}):
        assert (
            "cannot be written as JSON" in check_value({"a": [value]}, {"properties": {"a": {"items": schema}}})[1][0]
        )
    if isinstance(value, float):
        with pytest.raises(ToolError, match="cannot be written as JSON"):
            Tool.from_schema(with_parameters(type="object", properties={"a": {"default": value}}))


def test_what_must_not_be_is_meant_as_it_is():
    """A number could be brought into a text, but it is none."""
    schema = {"not": {"type": "string"}}
    assert check_value(0, schema) == (0, [])
    assert check_value("0", schema)[1] == ['the value must not be "0"']
    assert check_value([True], {"not": {"type": "array", "items": {"type": "string"}}}) == ([True], [])
    assert check_value(3.0, {"not": {"type": "integer"}})[1]  # to JSON this is a whole number


def test_a_hostile_pattern_takes_no_time():
    evil = {"type": "string", "pattern": "^(a+)+$"}
    assert check_value("a" * 5000, evil)[1] == []  # nothing is lost by the caution
    assert "must have the form" in check_value("a" * 40 + "b", evil)[1][0]
    assert check_value("a" * 20_000 + "b", {"pattern": "a*a*a*a*c"})[1]


def doubled(depth):
    """A schema of a few lines whose alternatives are two to the power of its depth."""
    both = {f"a{level}": {"anyOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(depth)}
    return {"$ref": "#/$defs/a0", "$defs": {**both, f"a{depth}": {"type": "integer"}}}


def nested(depth, wrap):
    value = 3
    for _ in range(depth):
        value = wrap(value)
    return value


SELF = {"$ref": "#"}
HOSTILE = {
    "itself": SELF,
    "all of itself": {"allOf": [SELF, SELF]},
    "any of itself": {"anyOf": [SELF, SELF]},
    "not itself": {"not": SELF},
    "if itself": {"if": SELF, "then": SELF},
    "a definition of itself": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a", "type": "object"}}},
    "a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
    "a tree": {"properties": {"a": SELF}, "unevaluatedProperties": False},
    "a dynamic tree": {"$dynamicAnchor": "x", "properties": {"a": {"$dynamicRef": "#x"}}},
    "names": {"propertyNames": SELF},
    "patterns": {"patternProperties": {"(a+)+$": SELF}},
    "dependent": {"dependentSchemas": {"a": SELF}},
    "another base": {"$id": "http://example.invalid/x", "properties": {"a": {"$ref": "y"}}},
    "a file": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "names of keywords": {"properties": {"$ref": {"type": "string"}, "properties": {"type": "object"}}},
    "all of many": {
        "allOf": [{"$ref": "#/$defs/a0"}],
        "$defs": {
            **{f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(40)},
            "a40": False,
        },
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_schema_stops_the_program(name):
    """It is refused, or calls of it are answered; the process lives on and asks nobody."""
    try:
        made = Tool.from_schema(with_parameters(**{"type": "object", **HOSTILE[name]}), lambda **given: "fine")
    except ToolError:
        return
    assert len(made.usage()) < 500
    for value in (3, "a" * 5000, nested(900, lambda inner: [inner]), nested(900, lambda inner: {"a": inner})):
        found = ToolBox([made]).call(ToolCall("a", {"a": value}, ""))
        assert found.ok or found.kind == "arguments"


def test_combinations_do_not_multiply():
    assert check_value(3, doubled(10)) == (3, [])
    assert check_value("x", doubled(30))[1] == ["the value is too complicated to be checked"]
    assert check_value("x", doubled(3))[1] == ['the value must be a whole number, not "x"']


def test_combinations_do_not_multiply_with_the_value():
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 2}}}
    value = 3
    for _ in range(50):
        value = [value]
    assert check_value(value, schema)[1] == ["the value is too complicated to be checked"]
    assert "too complicated to say where" in check_value("x", doubled(18))[1][0]
    items = {"items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}
    assert check_value([3] * 9000 + ["x"], items)[1][0].startswith("[9000] must be a whole number")


@pytest.mark.parametrize("depth", [400, 5000])
def test_values_nested_too_deeply(depth):
    value = 3
    for _ in range(depth):
        value = [value]
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}
    problems = check_value(value, schema)[1]
    assert problems == ["the value is nested too deeply"] or "must be a list" in problems[0]
