"""Arguments against a JSON schema: do they fit, and in which plain words do they not.

The work is done by `jsonschema_rs`, which never fetches anything, and whose regular expressions take no longer than the
text is long, or stop. A value that does not fit is brought into the wanted type where its meaning is beyond doubt:

| wanted | also accepted |
| --- | --- |
| integer | a text that is a whole number (`"3"`); `3.0` is one to JSON |
| number | a text that is a number (`"3.5"`) |
| boolean | the texts `true` and `false`, in any case |
| string | a whole number (`10111` for `"10111"`) |
| array | a tuple |
"""

import datetime
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from chatglm.errors import ToolError
from chatglm.tools.schema import Schema, accepted, referenced, spelled
from chatglm.tools.wording import place, sentences

_MAX_PROBLEMS = 5
_MAX_TRIED = 2_000_000  # parts of combinations that are tried: inside each other they multiply
_MAX_TOLD = 20_000  # of which it is said what is wrong with each
_ROUNDS = 20  # of bringing values into the wanted type
_BACKTRACKING = 100_000  # steps of a regular expression with references or lookarounds
_WHOLE = re.compile(r"[+-]?\d{1,300}")
_NUMBER = re.compile(r"[+-]?(\d{1,300}(\.\d{0,300})?|\.\d{1,300})([eE][+-]?\d{1,3})?")

Path = Sequence[str | int]


def _reads(kind: Any, sign: str, text: str) -> bool:
    """Whether a text is a moment; a bare number, which others take for seconds, is none."""
    try:
        kind.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return False
    return sign in text[:5]


_MOMENTS: dict[str, Callable[..., bool]] = {
    "date-time": partial(_reads, datetime.datetime, "-"),
    "time": partial(_reads, datetime.time, ":"),
}


class Checker:
    """Checks values against one schema.

    Args:
        schema: a JSON schema of any draft.
        where: whose it is, for messages.
        strict: whether an object may have only the listed names, unless the schema says something about others.
        formats: whether a date must be one; in schemas of others formats are notes for the reader.

    Raises:
        ToolError: the schema is none, or one nobody should check against.
    """

    def __init__(self, schema: Any, where: str = "the schema", *, strict: bool = False, formats: bool = False) -> None:
        import jsonschema_rs

        root = accepted(schema, where)
        self._root = _closed(root) if strict else root
        try:
            self._validator = jsonschema_rs.validator_for(
                self._root,
                offline=True,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKING),
                validate_formats=formats,
                formats=_MOMENTS,
            )
        except jsonschema_rs.ValidationError as error:
            raise ToolError(f"{where} cannot be used: {_first_problem(error)}") from None

    def check(self, value: Any) -> tuple[Any, list[str]]:
        """A value as the schema wants it, and what is wrong with it in plain words: nothing if it fits."""
        try:
            written = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
        except (TypeError, ValueError) as error:
            return value, [f"the value cannot be written as JSON: {error}"]
        except RecursionError:
            return value, ["the value is nested too deeply"]
        try:
            return self._judged(json.loads(written))
        except (RecursionError, ValueError):  # the second is how `jsonschema_rs` says it
            return value, ["the value is nested too deeply"]

    def _judged(self, value: Any) -> tuple[Any, list[str]]:
        errors: list[Any] = []
        for _ in range(_ROUNDS):
            count = _alternatives(self._root, value, self._root, {})
            if count > _MAX_TRIED:
                return value, ["the value is too complicated to be checked"]
            if self._validator.is_valid(value):
                return value, []
            if count > _MAX_TOLD:
                return value, ["the value does not fit, and is too complicated to say where"]
            errors = list(self._validator.iter_errors(value))
            fixes = [fix for error in errors for fix in _fixes(error)]
            if not fixes:
                break
            value = _replaced(value, fixes)
        problems = [words for error in errors for words in sentences(error, self._root)]
        problems.sort(key=lambda words: not words.endswith(" is missing"))
        return value, list(dict.fromkeys(problems))[:_MAX_PROBLEMS]


def _first_problem(error: Any) -> str:
    """What is wrong with a schema: the error of the schema of schemas, or of a reference."""
    if error.kind.name == "format":
        return f"{place(error.instance_path)} is {spelled(error.instance)}, which cannot be read"
    return sentences(error, None)[0] if error.instance_path else str(error).splitlines()[0]


def _closed(parameters: Schema) -> Schema:
    speaks = ("additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf")
    if "properties" not in parameters or any(keyword in parameters for keyword in speaks):
        return parameters
    return {**parameters, "additionalProperties": False}


def _fixes(error: Any) -> list[tuple[Path, Any]]:
    """The values to put in place so that the error goes away, as far as that is harmless.

    Of alternatives the first that can be met is meant. What a value must not be is meant as it is.
    """
    kind = error.kind
    if kind.name == "type":
        found = [_coerced(error.instance, wanted) for wanted in kind.types]
        return [(error.instance_path, one) for one in found if one is not None][:1]
    for branch in kind.context if kind.name in ("anyOf", "oneOf") else ():
        fixes = [_fixes(inner) for inner in branch]
        if branch and all(fixes):
            return [fix for one in fixes for fix in one]
    return []


def _replaced(value: Any, fixes: list[tuple[Path, Any]]) -> Any:
    for path, new in fixes:
        if not path:
            return new
        inside = value
        for step in path[:-1]:
            inside = inside[step]
        inside[path[-1]] = new
    return value


def _coerced(value: Any, kind: str) -> Any:
    """The value in the wanted type where that is harmless, see the module; else None."""
    if kind == "integer" and isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    if kind == "number" and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        return number if math.isfinite(number) else None
    if kind == "boolean" and isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    if kind == "string" and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300:
        return str(value)
    return None


def _alternatives(schema: Any, value: Any, root: Schema, known: dict[tuple[int, int], int]) -> int:
    """How many parts of combinations are held against the value and its parts until all that is wrong is found."""
    if not isinstance(schema, Mapping):
        return 0
    key = (id(schema), id(value))
    if key not in known:
        known[key] = 0
        pairs = [(part, value) for name in ("allOf", "anyOf", "oneOf") for part in schema.get(name, ())]
        pairs += [(schema[name], value) for name in ("not", "if", "then", "else") if name in schema]
        pairs += [(part, value) for part in schema.get("dependentSchemas", {}).values()]
        if "$ref" in schema:
            pairs.append((referenced(schema["$ref"], root), value))
        inside = sum(_alternatives(part, item, root, known) for part, item in [*pairs, *_inner(schema, value)])
        known[key] = len(pairs) + inside
    return known[key]


def _inner(schema: Mapping[str, Any], value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        patterns = list(schema.get("patternProperties", {}).values())
        return [(part, item) for name, item in value.items() for part in [properties.get(name, rest), *patterns]]
    if isinstance(value, list):
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        return [(first[index] if index < len(first) else rest, item) for index, item in enumerate(value)]
    return []
