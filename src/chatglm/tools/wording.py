"""What is wrong with a value, and what a schema asks for, in words a model can act on."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from chatglm.errors import ToolError
from chatglm.tools.schema import referenced, spelled

_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "object": "an object",
    "array": "a list",
}
_FORMS = {"date": "2026-01-31", "date-time": "2026-01-31T08:30:00Z", "time": "08:30:00"}
_LIMITS = {  # keyword: words, of what there may be so many
    "minimum": ("be at least", ""),
    "maximum": ("be at most", ""),
    "exclusiveMinimum": ("be more than", ""),
    "exclusiveMaximum": ("be less than", ""),
    "minLength": ("have at least", "characters"),
    "maxLength": ("have at most", "characters"),
    "minItems": ("have at least", "items"),
    "maxItems": ("have at most", "items"),
    "minProperties": ("have at least", "entries"),
    "maxProperties": ("have at most", "entries"),
}
_MAX_DEPTH = 4  # of a hint


def sentences(error: Any, root: Any) -> list[str]:
    """What one error of `jsonschema_rs` means, for example "days must be a whole number, not "x"".

    Args:
        error: a `jsonschema_rs.ValidationError`.
        root: the schema that was checked against.
    """
    where, kind = place(error.instance_path) or "the value", error.kind
    match kind.name:
        case "required":
            return [f"{_inside(error, kind.property)} is missing"]
        case "additionalProperties" | "unevaluatedProperties":
            return [f"{_inside(error, name)} is not known{_known(name, error, root)}" for name in kind.unexpected]
        case "anyOf" | "oneOf":
            if not all(kind.context):
                return [f"{where} fits more than one of the allowed forms"]
            firsts = dict.fromkeys(sentences(branch[0], root)[0] for branch in kind.context)
            return [" or ".join(list(firsts)[:4])]
        case "uniqueItems":
            return [f"{where} must not hold the same item twice"]
        case "not":
            return [f"{where} must not be {spelled(error.instance)}"]
        case "falseSchema":
            return [f"{where} must not be given"]
        case "pattern":
            form = getattr(kind, "pattern", None) or _at(root, error.schema_path)  # one that was given up has none
            return [f"{where} must have the form {form}, unlike {spelled(error.instance)}"]
        case "propertyNames":
            return [f"a name in {where}: {sentences(kind.error, root)[0]}"]
    asked = _asked(kind)
    return [f"{where} must {asked}, not {_seen(kind.name, error.instance)}" if asked else f"{where}: {error.message}"]


def _asked(kind: Any) -> str:
    """What a value must do, for the keywords that ask for one thing; of others nothing."""
    name = kind.name
    if name in _LIMITS:
        words, unit = _LIMITS[name]
        return f"{words} {kind.limit} {unit}".rstrip()
    if name == "type":
        return "be " + " or ".join(_TYPES[one] for one in kind.types)
    if name in ("enum", "const"):
        choices = kind.options if name == "enum" else [kind.expected_value]
        return "be one of " + ", ".join(spelled(choice) for choice in choices[:30])
    if name == "multipleOf":
        return f"be a multiple of {kind.multiple_of}"
    if name == "format":
        like = f" like {_FORMS[kind.format]}" if kind.format in _FORMS else ""
        return f"be of the form {kind.format}{like}"
    return ""


def _seen(name: str, value: Any) -> str:
    return str(len(value)) if name in _LIMITS and isinstance(value, (str, list, dict)) else spelled(value)


def place(path: Sequence[str | int]) -> str:
    """The way to a value, for people: `days`, `places[2].city`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _inside(error: Any, name: str) -> str:
    return place([*error.instance_path, name])


def _known(name: str, error: Any, root: Any) -> str:
    """The names that are known where one is not."""
    schema = _at(root, error.schema_path[:-1])
    known = [str(one) for one in (schema.get("properties") or {})] if isinstance(schema, Mapping) else []
    near = difflib.get_close_matches(name, known, n=1)
    return (f"; did you mean {near[0]}?" if near else "") + f"; known here: {', '.join(known) or 'none'}"


def _at(root: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        try:
            root = root[step]
        except (KeyError, IndexError, TypeError):
            return None
    return root


def hint(schema: Any, root: Mapping[str, Any], depth: int = 0) -> str:
    """What a value may be, in a few words: "integer", "one of "a", "b"", "array of object with city (string)"."""
    schema = _resolved(schema, root)
    if not schema or depth > _MAX_DEPTH:
        return "any value"
    if "const" in schema:
        return spelled(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(spelled(choice) for choice in schema["enum"][:12])
    found = []
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword):
            found.append(_joined(" or ", [hint(part, root, depth + 1) for part in schema[keyword]]))
    kinds = schema.get("type")
    if kinds is not None:
        named = [_kind(kind, schema, root, depth) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
        found.insert(0, " or ".join(named))
    elif "properties" in schema:
        found.insert(0, _kind("object", schema, root, depth))
    return _joined(" and ", [words for words in found if words != "any value"]) or "any value"


def _joined(sign: str, words: list[str]) -> str:
    return sign.join(dict.fromkeys(words))


def _kind(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    if kind == "array" and schema.get("prefixItems"):
        return f"array of {', '.join(hint(part, root, depth + 1) for part in schema['prefixItems'])}"
    if kind == "array" and schema.get("items"):
        inner = hint(schema["items"], root, depth + 1)
        return kind if inner == "any value" else f"{kind} of {inner}"
    parts = listed(schema, root, depth + 1) if kind == "object" else ""
    return f"object with {parts}" if parts else kind


def listed(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> str:
    """The parts of an object: "city (string, required), days (integer, optional)"; nothing if none are known."""
    whole = _resolved(schema, root)
    required = whole.get("required", [])
    words = [
        f"{name} ({hint(part, root, depth)}, {'required' if name in required else 'optional'})"
        for name, part in whole.get("properties", {}).items()
    ]
    if whole.get("additionalProperties", False) is not False:
        words.append(f"any other name ({hint(whole['additionalProperties'], root, depth)})")
    return ", ".join(words)


def _resolved(schema: Any, root: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """The schema with what its reference and its `allOf` say in its place."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return {}
    whole = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
    inside = list(schema.get("allOf", []))
    if "$ref" in schema:
        try:
            inside.append(referenced(schema["$ref"], root))
        except ToolError:
            return whole
    for part in inside:
        for key, value in _resolved(part, root, depth + 1).items():
            if key == "properties":
                whole[key] = {**value, **whole.get(key, {})}
            elif key == "required":
                whole[key] = [*whole.get(key, []), *value]
            else:
                whole.setdefault(key, value)
    return whole
