"""What a model is told about a call that was wrong: as much as the schema says, wherever it says it."""

import pytest

from chatglm.chat.message import ToolCall
from chatglm.tools import Tool, ToolBox

DEFINITIONS = {
    "unit": {"enum": ["c", "f"]},
    "one": {"const": "a"},
    "place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "again": {"$ref": "#/$defs/unit"},
    "places": {"type": "array", "items": {"$ref": "#/$defs/place"}},
    "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"$ref": "#/$defs/unit"}]},
    "either": {"anyOf": [{"$ref": "#/$defs/unit"}, {"type": "null"}]},
    "or": {"oneOf": [{"type": "integer"}, {"$ref": "#/$defs/places"}]},
    "all": {"allOf": [{"$ref": "#/$defs/place"}, {"properties": {"days": {"type": "integer"}}}]},
    "tree": {"type": "object", "properties": {"leaves": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
}
PLACE = "object with city (string, required)"


def made(parameters):
    return Tool.from_schema({"name": "t", "description": "d", "parameters": {**parameters, "$defs": DEFINITIONS}})


@pytest.mark.parametrize(
    ("schema", "hint"),
    [
        ({"$ref": "#/$defs/unit"}, 'one of "c", "f"'),
        ({"$ref": "#/$defs/again"}, 'one of "c", "f"'),
        ({"$ref": "#/$defs/one"}, '"a"'),
        ({"$ref": "#/$defs/place"}, PLACE),
        ({"$ref": "#/$defs/places"}, f"array of {PLACE}"),
        ({"type": "array", "items": {"$ref": "#/$defs/unit"}}, 'array of one of "c", "f"'),
        ({"$ref": "#/$defs/pair"}, 'array of integer, one of "c", "f"'),
        ({"$ref": "#/$defs/either"}, 'one of "c", "f" or null'),
        ({"$ref": "#/$defs/or"}, f"integer or array of {PLACE}"),
        ({"$ref": "#/$defs/all"}, "object with days (integer, optional), city (string, required)"),
        ({"allOf": [{"$ref": "#/$defs/unit"}], "description": "x"}, 'one of "c", "f"'),
        ({"type": ["string", "null"]}, "string or null"),
        ({"const": 3}, "3"),
        ({"enum": [1, None]}, "one of 1, null"),
        ({"anyOf": [{"type": "string"}, {"type": "string", "minLength": 3}]}, "string"),
        ({"additionalProperties": {"type": "integer"}, "type": "object"}, "object with any other name (integer)"),
        ({"description": "x"}, "any value"),
        ({}, "any value"),
        (True, "any value"),
    ],
)
def test_a_hint_says_what_the_definition_says(schema, hint):
    tool = made({"type": "object", "properties": {"a": schema}, "required": ["a"]})
    assert tool.usage() == f"t takes: a ({hint}, required)."
    found = ToolBox([tool]).call(ToolCall("t", {"b": 1}, ""))
    assert found.text.endswith(tool.usage())


def test_a_hint_about_what_contains_itself_ends():
    usage = made({"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}}}).usage()
    assert usage.startswith("t takes: a (object with leaves (array of object with leaves (")
    assert len(usage) < 300


def test_parameters_that_are_a_reference_themselves():
    assert made({"$ref": "#/$defs/all"}).usage() == ("t takes: days (integer, optional), city (string, required).")


@pytest.mark.parametrize(
    ("schema", "value", "says"),
    [
        ({"$ref": "#/$defs/unit"}, "k", 'a must be one of "c", "f", not "k"'),
        ({"$ref": "#/$defs/places"}, [{"town": "x"}], "a[0].city is missing"),
        ({"$ref": "#/$defs/or"}, "x", 'a must be a whole number, not "x" or a must be a list, not "x"'),
        ({"$ref": "#/$defs/all"}, {"city": "x", "days": "y"}, 'a.days must be a whole number, not "y"'),
        ({"$ref": "#/$defs/one"}, "b", 'a must be one of "a", not "b"'),
    ],
)
def test_what_is_wrong_behind_a_reference_is_said(schema, value, says):
    tool = made({"type": "object", "properties": {"a": schema}})
    assert tool.check({"a": value})[1] == [says]
