"""Sixty shapes of JSON that programs ask for: every answer that ends is valid."""

import json

import jsonschema
import pytest

MODEL = "chatglm-tiny"
TEXT = {"type": "string", "maxLength": 6}
WORD = {"enum": ["red", "绿", "b-l_u e"]}
COUNT = {"type": "integer", "minimum": 0, "maximum": 99}


def record(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def listed(items, least=0, most=3):
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


VALUES = [
    TEXT, WORD, COUNT, {"type": "boolean"}, {"type": "null"}, {"const": "only"}, {"const": 42},
    {"type": "number", "minimum": -1, "maximum": 1}, {"type": ["boolean", "null"]}, {"enum": [1, 2.5, None, True, "x"]},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, {"type": "string", "minLength": 2, "maxLength": 4},
    {"anyOf": [COUNT, WORD]}, {"oneOf": [{"type": "boolean"}, {"const": "maybe"}]}, 
    {"type": "string", "format": "date"},
]  # fmt: skip
NODE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": record(name=WORD, next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]}),
        "leaf": record(n=COUNT),
    },
}  # fmt: skip
SHAPES = [
    *VALUES,
    *(record(value=value) for value in VALUES),
    *(listed(value, 1) for value in VALUES),
    record(a=record(b=record(c=WORD))), record(tags=listed(WORD, 2, 2), count=COUNT),
    record(rows=listed(record(x=COUNT), 1)),
    {**record(a=WORD, b=COUNT), "required": ["a"]}, {**record(a=WORD, b=COUNT), "required": []},
    record(**{"key with blank": COUNT}),
    record(**{"引号\"": WORD}), {"anyOf": [record(kind={"const": "a"}, x=COUNT), record(kind={"const": "b"}, y=WORD)]},
    {"type": "array", "prefixItems": [COUNT, WORD], "items": False, "minItems": 2}, NODE,
    {"allOf": [record(a=WORD)]}, {"type": "object", "additionalProperties": COUNT, "maxProperties": 2},
    record(matrix=listed(listed(COUNT, 2, 2), 2, 2)), {"type": "array", "maxItems": 0}, record(),
]  # fmt: skip


def test_there_are_sixty():
    assert len(SHAPES) == 60


def ask(client, schema, **options):
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": schema, "strict": True}}
    asked = [{"role": "user", "content": "Fill in the form."}]
    return client.chat.completions.create(model=MODEL, messages=asked, response_format=form, max_tokens=300, **options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("number", range(60))
def test_every_answer_is_valid(client, number, seed):
    schema = SHAPES[number]
    choice = ask(client, schema, temperature=1.0, seed=seed).choices[0]
    if choice.finish_reason == "length":  # the digits of a number, and names that are free, may go on for ever
        assert "number" in json.dumps(schema) or "maxProperties" in schema
        return
    jsonschema.validate(json.loads(choice.message.content), schema)


@pytest.mark.parametrize("number", range(0, 60, 10))
def test_some_of_them(client, number):
    schema = SHAPES[number]
    jsonschema.validate(json.loads(ask(client, schema, temperature=0).choices[0].message.content), schema)
