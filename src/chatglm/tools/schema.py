"""JSON schemas, which may come from anywhere: how large they may be, and what their references stand for."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from chatglm.errors import ToolError

Schema = dict[str, Any]

MAX_DEPTH = 60  # of a schema, in lists and objects inside each other
MAX_PARTS = 20_000  # of a schema with its references filled in
MAX_CHARACTERS = 200_000  # of a schema written as JSON
_VALUES = frozenset(["default", "enum", "const", "examples"])  # keywords that hold values, not schemas
_NAMED = frozenset(["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"])  # schemas by name


def spelled(value: Any) -> str:
    """A value as JSON for a message, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def rebuilt(schema: Any, change: Callable[[Schema], Schema], where: str) -> Any:
    """A copy in which each schema is what `change` makes of it, the outer ones first.

    Raises:
        ToolError: it has no end, or is too large.
    """
    count = 0

    def build(part: Any, depth: int, names: bool) -> Any:
        nonlocal count
        count += 1
        if depth > MAX_DEPTH or count > MAX_PARTS:
            raise ToolError(f"{where} contains itself, is nested more than {MAX_DEPTH} deep, or has too many parts")
        if isinstance(part, list):
            return [build(item, depth + 1, False) for item in part]
        if not isinstance(part, dict):
            return part
        if names:
            return {name: build(inner, depth + 1, False) for name, inner in part.items()}
        return {
            key: value if key in _VALUES else build(value, depth + 1, key in _NAMED)
            for key, value in change(part).items()
        }

    return build(schema, 0, False)


def referenced(reference: Any, root: Mapping[str, Any]) -> Any:
    """What a reference of a schema stands for, through references to references.

    Raises:
        ToolError: it leads nowhere, out of the schema, or round in a circle.
    """
    seen: list[Any] = []
    while True:
        if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
            raise ToolError(f"$ref is {spelled(reference)}; it must point into the schema itself, like '#/$defs/name'")
        if reference in seen:
            raise ToolError(f"$ref goes round in a circle: {' -> '.join(seen)}")
        seen.append(reference)
        found: Any = root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise ToolError(f"$ref is {reference!r}, but the schema has no such place")
            found = found[name]
        if not isinstance(found, Mapping) or set(found) != {"$ref"}:
            return found
        reference = found["$ref"]


def inlined(schema: Schema, where: str) -> Schema:
    """The schema with its references filled in and its titles left out: what a model should read.

    Raises:
        ToolError: a reference leads into itself.
    """

    def filled(part: Schema) -> Schema:
        seen: list[str] = []
        while "$ref" in part:
            target = referenced(part["$ref"], schema)
            if part["$ref"] in seen:
                raise ToolError(f"{where} contains itself through {part['$ref']!r}; a schema must end somewhere")
            seen.append(part["$ref"])
            rest = {key: value for key, value in part.items() if key != "$ref"}
            part = {**target, **rest} if isinstance(target, dict) else rest
        return {key: value for key, value in part.items() if key not in ("title", "$defs", "definitions", "$schema")}

    found: Schema = rebuilt(schema, filled, where)
    return found


def accepted(schema: Any, where: str) -> Schema:
    """A copy to check against, after what is no schema was refused; `nullable` is said as JSON schema says it.

    Raises:
        ToolError: names what is wrong with it.
    """
    if not isinstance(schema, Mapping):
        raise ToolError(f"{where} is {spelled(schema)}; it must be a JSON schema, a dict")
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"{where} cannot be written as JSON: {error}") from None
    if len(text) > MAX_CHARACTERS:
        raise ToolError(f"{where} has {len(text)} characters; at most {MAX_CHARACTERS} are accepted")
    copy = json.loads(text)
    if not str(copy.get("$schema", "")).startswith(("https://json-schema.org/", "http://json-schema.org/")):
        copy.pop("$schema", None)  # of others nobody knows the rules

    def sound(part: Schema) -> Schema:
        if "$ref" in part:
            referenced(part["$ref"], copy)
        if part.get("nullable") is not True or "type" not in part:
            return part
        kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
        choices = {"enum": [*part["enum"], None]} if isinstance(part.get("enum"), list) else {}
        return {**part, "type": list(dict.fromkeys([*kinds, "null"])), **choices}

    try:
        found: Schema = rebuilt(copy, sound, where)
    except ToolError as error:
        raise ToolError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return found
