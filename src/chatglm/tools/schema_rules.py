"""Whether a JSON schema is one that arguments can be checked against, and a schema with its references filled in."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from chatglm.errors import ToolError
from chatglm.tools.schema import TYPES, Schema, referenced, spelled

MAX_DEPTH = 40  # of a schema
MAX_CHARACTERS = 200_000  # of a schema written as JSON
_INSIDE = ("items", "additionalProperties", "not")  # keywords whose value is a schema
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")  # a list of them
_NAMED = ("properties", "$defs", "definitions", "patternProperties")  # a dict of them
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def check_schema(schema: Any, where: str) -> None:
    """Refuses what is no schema, before anything is checked against it.

    Raises:
        ToolError: names the place and what must stand there.
    """
    if not isinstance(schema, Mapping):
        raise ToolError(f"{where} is {spelled(schema)}; it must be a JSON schema, a dict")
    try:
        length = len(json.dumps(schema, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"{where} cannot be written as JSON: {error}") from None
    if length > MAX_CHARACTERS:
        raise ToolError(f"{where} has {length} characters; at most {MAX_CHARACTERS} are accepted")
    for place, part in _parts(schema, where, 0):
        _check_part(part, place, schema)


def _parts(schema: Any, where: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The schema and all schemas inside it, with the place of each."""
    if depth > MAX_DEPTH:
        raise ToolError(f"{where[:80]}... is nested more than {MAX_DEPTH} deep")
    yield where, schema
    if not isinstance(schema, Mapping):
        return
    inside = [(f"{where}.{name}", schema[name]) for name in _INSIDE if name in schema]
    for name in _LISTS:
        if name in schema:
            items = _must_be(schema[name], list, f"{where}.{name}", "a list of schemas")
            inside += [(f"{where}.{name}[{index}]", item) for index, item in enumerate(items)]
    for name in _NAMED:
        if name in schema:
            items = _must_be(schema[name], Mapping, f"{where}.{name}", "a dict of schemas")
            inside += [(f"{where}.{name}.{key}", item) for key, item in items.items()]
    for place, part in inside:
        yield from _parts(part, place, depth + 1)


def _must_be(value: Any, kind: Any, where: str, words: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ToolError(f"{where} is {spelled(value)}; it must be {words}")
    return value


def _check_part(schema: Any, where: str, root: Schema) -> None:
    if isinstance(schema, bool):
        return
    _must_be(schema, Mapping, where, "a schema, a dict")
    kinds = schema.get("type", [])
    for kind in (
        [kinds] if isinstance(kinds, str) else _must_be(kinds, list, f"{where}.type", "a type or a list of them")
    ):
        if kind not in TYPES:
            raise ToolError(f"{where}.type is {spelled(kind)}; it must be one of {', '.join(TYPES)}")
    for name in ("required", "enum"):
        _must_be(schema.get(name, []), list, f"{where}.{name}", "a list")
    for name in schema.get("required", []):
        _must_be(name, str, f"{where}.required", "a list of names")
    for name in (*_NUMBERS, *_COUNTS):
        _must_be(schema.get(name, 1), (int, float), f"{where}.{name}", "a number")
    if schema.get("multipleOf", 1) <= 0:
        raise ToolError(f"{where}.multipleOf is {schema['multipleOf']}; it must be more than 0")
    for pattern in [*([schema["pattern"]] if "pattern" in schema else []), *schema.get("patternProperties", {})]:
        try:
            re.compile(_must_be(pattern, str, f"{where}.pattern", "a regular expression"))
        except (re.error, RecursionError, OverflowError) as error:
            raise ToolError(f"{where}.pattern is {spelled(pattern)}, which Python cannot read: {error}") from None
    seen: list[Any] = []
    while isinstance(schema, Mapping) and "$ref" in schema:
        if schema["$ref"] in seen:
            raise ToolError(f"{where}.$ref goes round in a circle: {' -> '.join(map(str, seen))}")
        seen.append(schema["$ref"])
        schema = referenced(schema["$ref"], root)


def inlined(schema: Schema, where: str) -> dict[str, Any]:
    """The schema with its references filled in and its titles left out: what a model should read.

    Raises:
        ToolError: a reference leads into itself.
    """

    def walk(part: Any, open_references: tuple[str, ...]) -> Any:
        if not isinstance(part, Mapping):
            return part
        if "$ref" in part:
            reference = part["$ref"]
            if reference in open_references:
                raise ToolError(f"{where} contains itself through {reference!r}; a schema must end somewhere")
            target = walk(referenced(reference, schema), (*open_references, reference))
            return {**target, **walk({key: part[key] for key in part if key != "$ref"}, open_references)}
        result: dict[str, Any] = {}
        for key, value in part.items():
            if key in _NAMED:
                if key not in ("$defs", "definitions"):
                    result[key] = {name: walk(inner, open_references) for name, inner in value.items()}
            elif key in _LISTS:
                result[key] = [walk(inner, open_references) for inner in value]
            elif key != "title":
                result[key] = walk(value, open_references) if key in _INSIDE else value
        return result

    filled: dict[str, Any] = walk(schema, ())
    return filled
