"""JSON schemas of arguments: is a schema one, does a value fit it, and in which plain words does it not.

The keywords that describe arguments are understood: types, choices, objects, arrays, limits, patterns, combinations and
local references. Others (`format`, `title`, ...) are notes for the reader.

A value that does not fit is brought into the wanted type where its meaning is beyond doubt, and only then:

| wanted | also accepted |
| --- | --- |
| integer | a text that is a whole number, a number without a fraction (`"3"`, `3.0`) |
| number | a text that is a number (`"3.5"`) |
| boolean | the texts `true` and `false`, in any case |
| string | a whole number (`10111` for `"10111"`) |
| array | a tuple |
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from chatglm.errors import ToolError
from chatglm.tools.patterns import matches

Schema = Mapping[str, Any]

_MAX_PROBLEMS = 5
_MAX_STEPS = 100_000  # of one check: combinations inside combinations would multiply

TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "string": ("a text", lambda value: isinstance(value, str)),
    "integer": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "number": ("a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "null": ("null", lambda value: value is None),
    "object": ("an object", lambda value: isinstance(value, dict)),
    "array": ("a list", lambda value: isinstance(value, (list, tuple))),
}
_WHOLE = re.compile(r"[+-]?\d{1,300}")
_NUMBER = re.compile(r"[+-]?(\d{1,300}(\.\d{0,300})?|\.\d{1,300})([eE][+-]?\d{1,3})?")


def check_value(value: Any, schema: Schema | bool, root: Schema | None = None) -> tuple[Any, list[str]]:
    """A value as the schema wants it, and what is wrong with it in plain words: nothing if it fits.

    Args:
        value: a JSON value, as a call brings it.
        schema: what it should be.
        root: where the schema's `$ref` point into; unless given, the schema itself.
    """
    check = _Check(root if root is not None else schema if isinstance(schema, Mapping) else {})
    try:
        return check.value(value, schema, "")
    except RecursionError:
        return value, ["the value is nested too deeply"]
    except _TooMuchWork:
        return value, ["the value is too complicated to be checked"]


class _TooMuchWork(Exception):
    pass


class _Check:
    """One check. `where` is the way to a value, for people: `days`, `places[2].city`."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.steps = 0

    def value(self, value: Any, schema: Schema | bool, where: str) -> tuple[Any, list[str]]:
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise _TooMuchWork
        if isinstance(schema, bool):
            return value, [] if schema else [f"{where or 'the value'} must not be given"]
        if "$ref" in schema:
            value, problems = self.value(value, referenced(schema["$ref"], self.root), where)
            if problems:
                return value, problems
        value, problems = self._type(value, schema, where)
        if problems:
            return value, problems
        problems += self._choice(value, schema, where)
        if isinstance(value, dict):
            value, found = self._object(value, schema, where)
        elif isinstance(value, list):
            value, found = self._array(value, schema, where)
        else:
            found = _plain_problems(value, schema, where)
        problems += found
        value, found = self._combinations(value, schema, where)
        return value, (problems + found)[:_MAX_PROBLEMS]

    def _type(self, value: Any, schema: Schema, where: str) -> tuple[Any, list[str]]:
        value = list(value) if isinstance(value, tuple) else value
        wanted = schema.get("type")
        kinds = [wanted] if isinstance(wanted, str) else list(wanted or ())
        if not kinds or (value is None and schema.get("nullable") is True):
            return value, []
        if any(TYPES[kind][1](value) for kind in kinds):
            return value, []
        for kind in kinds:
            coerced = _coerced(value, kind)
            if coerced is not None:
                return coerced, []
        words = " or ".join(TYPES[kind][0] for kind in kinds)
        return value, [f"{where or 'the value'} must be {words}, not {spelled(value)}"]

    def _choice(self, value: Any, schema: Schema, where: str) -> list[str]:
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if choices is None or any(_equal(value, choice) for choice in choices):
            return []
        words = ", ".join(spelled(choice) for choice in choices[:30])
        return [f"{where or 'the value'} must be one of {words}, not {spelled(value)}"]

    def _object(self, value: dict[str, Any], schema: Schema, where: str) -> tuple[dict[str, Any], list[str]]:
        properties = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        rest = schema.get("additionalProperties", True)
        problems = [f"{_inside(where, name)} is missing" for name in schema.get("required", ()) if name not in value]
        problems += _count_problems(len(value), schema, "Properties", where, "entries")
        result: dict[str, Any] = {}
        for name, item in value.items():
            parts = [properties[name]] if name in properties else []
            parts += [part for pattern, part in patterns.items() if matches(pattern, str(name))]
            if not parts and rest is False:
                known = ", ".join(properties) or "none"
                problems.append(f"{_inside(where, name)} is not known; known here: {known}")
            for part in parts or [rest]:
                if part is not False or parts:
                    item, found = self.value(item, part, _inside(where, name))
                    problems += found
            result[name] = item
        return result, problems

    def _array(self, value: list[Any], schema: Schema, where: str) -> tuple[list[Any], list[str]]:
        problems = _count_problems(len(value), schema, "Items", where, "items")
        first = schema.get("prefixItems", [])
        rest = schema.get("items", True)
        result = []
        for index, item in enumerate(value):
            part = first[index] if index < len(first) else rest
            item, found = self.value(item, part, f"{where}[{index}]")
            problems += found
            result.append(item)
        if schema.get("uniqueItems") is True:
            written = [json.dumps(item, sort_keys=True, default=str) for item in result]
            if len(set(written)) < len(written):
                problems.append(f"{where or 'the value'} must not hold the same item twice")
        return result, problems

    def _combinations(self, value: Any, schema: Schema, where: str) -> tuple[Any, list[str]]:
        for part in schema.get("allOf", ()):
            value, problems = self.value(value, part, where)
            if problems:
                return value, problems
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                value, problems = self._one_of(value, schema[keyword], where, only=keyword == "oneOf")
                if problems:
                    return value, problems
        if "not" in schema:
            found, problems = self.value(value, schema["not"], where)
            if not problems and _equal(found, value):  # as it is: what it could be brought into does not count
                return value, [f"{where or 'the value'} must not be {spelled(value)}"]
        return value, []

    def _one_of(self, value: Any, parts: list[Any], where: str, only: bool) -> tuple[Any, list[str]]:
        """The branch the value fits as it is, else the first it can be brought into."""
        tried = [self.value(value, part, where) for part in parts]
        fitting = [found for found, problems in tried if not problems]
        exact = [found for found in fitting if _equal(found, value)]
        if only and len(exact) > 1:
            return value, [f"{where or 'the value'} fits more than one of the allowed forms"]
        if fitting:
            return (exact or fitting)[0], []
        words = list(dict.fromkeys(problem for _, problems in tried for problem in problems[:1]))
        return value, [" or ".join(words[:4])]


def _inside(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)


def _coerced(value: Any, kind: str) -> Any:
    """The value in the wanted type where that is harmless, see the module; else None."""
    if kind == "integer":
        if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
            return int(value)
        return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else None
    if kind == "number" and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        return number if math.isfinite(number) else None
    if kind == "boolean" and isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    if kind == "string" and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300:
        return str(value)
    return None


def _plain_problems(value: Any, schema: Schema, where: str) -> list[str]:
    where = where or "the value"
    if isinstance(value, str):
        problems = _count_problems(len(value), schema, "Length", where, "characters")
        if "pattern" in schema and not matches(schema["pattern"], value):
            problems.append(f"{where} must have the form {schema['pattern']}, unlike {spelled(value)}")
        return problems
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return []
    limits: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "minimum": ("at least", lambda limit: value >= limit),
        "maximum": ("at most", lambda limit: value <= limit),
        "exclusiveMinimum": ("more than", lambda limit: value > limit),
        "exclusiveMaximum": ("less than", lambda limit: value < limit),
        "multipleOf": ("a multiple of", lambda step: _is_multiple(value, step)),
    }
    return [
        f"{where} must be {words} {schema[keyword]}, not {spelled(value)}"
        for keyword, (words, holds) in limits.items()
        if keyword in schema and not holds(schema[keyword])
    ]


def _is_multiple(value: float, step: float) -> bool:
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    try:
        quotient = value / step
    except OverflowError:
        return True
    return math.isclose(quotient, round(quotient), rel_tol=1e-9)


def _count_problems(count: int, schema: Schema, noun: str, where: str, words: str) -> list[str]:
    least, most = schema.get(f"min{noun}", 0), schema.get(f"max{noun}", math.inf)
    if least <= count <= most:
        return []
    limit = f"at least {least}" if count < least else f"at most {most}"
    return [f"{where or 'the value'} must have {limit} {words}, not {count}"]


def _equal(one: Any, other: Any) -> bool:
    """Equality as JSON has it: 1 is 1.0 but not true."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)


def spelled(value: Any) -> str:
    """A value as JSON for a message, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def referenced(reference: Any, root: Schema) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise ToolError(f"$ref is {spelled(reference)}; it must point into the schema itself, like '#/$defs/name'")
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            raise ToolError(f"$ref is {reference!r}, but the schema has no such place")
        found = found[name]
    return found
