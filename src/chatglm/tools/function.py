"""What a function's signature and docstring say about it as a tool, and the way from JSON to its arguments.

Types are read and built by pydantic. What a schema says is checked before (`checking`), so pydantic has only values of
the right JSON types to build from; whatever code of the user's it runs then - validators, `__post_init__` - belongs to
the call.
"""

import functools
import inspect
import json
import operator
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from chatglm.errors import ToolError
from chatglm.tools.schema import Schema, inlined, rebuilt, spelled
from chatglm.tools.wording import place

Build = Callable[[dict[str, Any]], dict[str, Any]]

_REST = "**"  # the name under which the type of all other arguments goes; no parameter has it
_FIRST = (
    "type format enum prefixItems items uniqueItems minItems maxItems properties required additionalProperties "
    "minimum exclusiveMinimum maximum exclusiveMaximum multipleOf pattern minLength maxLength"
).split()
_LAST = ["description", "default"]
_WRAPPERS = ("Required", "NotRequired", "ReadOnly")
_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_UNIONS = (typing.Union, type(int | str))
_WIDE_COLON = re.compile(r"^(\s*(?:\*{0,2}[A-Za-z_]\w*(?:\s*\([^()\n]*\))?))\s*：", re.MULTILINE)


@dataclass(frozen=True)
class Signature:
    """The description of a function, its parameters as JSON schema, and the way from JSON to its arguments."""

    description: str
    parameters: Schema
    build: Build


def read_function(function: Callable[..., Any], name: str) -> Signature:
    """Reads a function.

    Raises:
        ToolError: it cannot be described as a tool; names the parameter and what would be right.
    """
    inner = _inner(function)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise ToolError(f"the tool {name} has no signature Python can read; write a function around it") from None
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ToolError(
                f"{parameter.name} of the tool {name} can only be given by position; "
                "a tool's arguments are given by name"
            )
    known = _hints(inner, name) if any(one.annotation is not one.empty for one in parameters) else {}
    kinds = {_REST if one.kind is one.VAR_KEYWORD else one.name: _plain(known.get(one.name, Any)) for one in parameters}
    description, texts = read_docstring(inner)
    adapter, schema = _adapted(kinds, name)
    rest = schema["properties"].pop(_REST, None)
    required = [one.name for one in parameters if one.name in kinds and _is_required(one, kinds[one.name], name)]
    for one in parameters:
        if one.name in schema["properties"]:
            _complete(schema["properties"][one.name], kinds[one.name], texts.get(one.name), one.default)
    whole = {"$defs": schema.get("$defs", {}), "type": "object", "properties": schema["properties"]}
    whole = inlined({**whole, "required": required, **({} if rest is None else {"more": rest})}, f"the tool {name}")
    whole = rebuilt(whole, _shortened, f"the tool {name}")
    if rest is not None:
        whole["additionalProperties"] = whole.pop("more") or True
    return Signature(description, whole, functools.partial(_built, adapter, frozenset(kinds)))


def _inner(function: Callable[..., Any]) -> Any:
    """Where annotations and docstring are: behind `functools.partial`, and in the class of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function if inspect.isroutine(function) else type(function).__call__)


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # whatever an annotation that is evaluated may raise
        raise ToolError(f"the annotations of the tool {name} cannot be read: {type(error).__name__}: {error}") from None


def _plain(kind: Any) -> Any:
    """The type, with `typing.TypedDict` as pydantic reads it: before Python 3.12 that of `typing_extensions`."""
    if sys.version_info >= (3, 12) or get_origin(kind) is typing.Literal:
        return kind
    if typing.is_typeddict(kind) and type(kind).__module__ == "typing":
        from typing_extensions import NotRequired, Required

        hints = typing.get_type_hints(kind, include_extras=True)
        bare = {
            key: get_args(one)[0] if get_origin(one) in (Required, NotRequired) else one for key, one in hints.items()
        }
        needed = kind.__required_keys__
        return _typed_dict(
            kind.__name__, {key: (Required if key in needed else NotRequired)[_plain(one)] for key, one in bare.items()}
        )
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        return Annotated.__class_getitem__((_plain(arguments[0]), *arguments[1:]))
    changed = tuple(_plain(one) for one in arguments)
    if changed == arguments:
        return kind
    return functools.reduce(operator.or_, changed) if get_origin(kind) in _UNIONS else get_origin(kind)[changed]


def _typed_dict(name: str, kinds: dict[str, Any]) -> Any:
    import typing_extensions

    make: Any = typing_extensions.TypedDict
    return make(name, kinds)


def _adapted(kinds: dict[str, Any], name: str) -> tuple[Any, Schema]:
    """Pydantic's adapter for the arguments, and their schema."""
    try:
        return _adapter(kinds)
    except Exception:  # of pydantic, or of the code of a foreign type
        for parameter, kind in kinds.items():
            try:
                _adapter({parameter: kind})
            except Exception as error:
                words = getattr(kind, "__name__", None) or repr(kind)
                raise ToolError(
                    f"{parameter} of the tool {name} is {words}, which has no JSON form: {str(error).splitlines()[0]}"
                ) from None
        raise


def _adapter(kinds: dict[str, Any]) -> tuple[Any, Schema]:
    from pydantic import ConfigDict, TypeAdapter
    from typing_extensions import NotRequired

    arguments = _typed_dict("Arguments", {key: NotRequired[kind] for key, kind in kinds.items()})
    arguments.__pydantic_config__ = ConfigDict(extra="forbid")
    adapter = TypeAdapter(arguments)
    schema = {"properties": {}, "$defs": {}, **adapter.json_schema()}
    _add_texts(list(kinds.values()), schema["$defs"], set())
    return adapter, schema


def _add_texts(kinds: Sequence[Any], definitions: dict[str, Any], seen: set[Any]) -> None:
    """Adds the texts in `Annotated[type, text]` of the fields of classes, which pydantic does not read."""
    for kind in kinds:
        _add_texts([one for one in get_args(kind) if one is not kind], definitions, seen)
        if not isinstance(kind, type) or kind in seen or kind.__name__ not in definitions:
            continue
        seen.add(kind)
        fields = typing.get_type_hints(kind, include_extras=True)
        for name, schema in definitions[kind.__name__].get("properties", {}).items():
            text = _said(fields.get(name))
            if text:
                schema["description"] = text
        _add_texts(list(fields.values()), definitions, seen)


def _built(adapter: Any, names: frozenset[str], values: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the function takes them. Runs code of their types.

    Raises:
        ToolError: a type does not accept its value; says which and why.
    """
    from pydantic import ValidationError

    built = {}
    known = {name: value for name, value in values.items() if name in names and name != _REST}
    parts = [(known, "")] + [({_REST: value}, name) for name, value in values.items() if name not in known]
    for part, other in parts:
        try:
            found = adapter.validate_json(json.dumps(part))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = place([other if step == _REST else step for step in first["loc"]])
            raise ToolError(f"{where} is {spelled(first['input'])}, which is not accepted: {first['msg']}") from None
        built.update({other or name: value for name, value in found.items()})
    return built


def _complete(schema: Schema, kind: Any, text: str | None, default: Any) -> None:
    """Adds the text about a parameter and its default value."""
    text = _said(kind) or schema.get("description") or text
    if text:
        schema["description"] = text
    if default is None or default is inspect.Parameter.empty:
        return
    value = getattr(default, "value", default)  # of an enum
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return  # the model need not know it to leave the argument out
    schema["default"] = value


def _said(kind: Any) -> str | None:
    """The text in `Annotated[type, text]`, also in `NotRequired[...]` and the like."""
    if getattr(get_origin(kind), "_name", None) in _WRAPPERS:
        kind = get_args(kind)[0]
    for extra in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
        text = extra if isinstance(extra, str) else getattr(extra, "description", getattr(extra, "documentation", None))
        if isinstance(text, str) and text.strip():
            return " ".join(text.split())
    return None


def _is_required(parameter: inspect.Parameter, kind: Any, name: str) -> bool:
    """No default. `Annotated[type, text, required]` of the official demo may say it too, and must not contradict."""
    said = [extra for extra in get_args(kind)[1:] if isinstance(extra, bool)] if get_origin(kind) is Annotated else []
    has_default = parameter.default is not parameter.empty
    if said == [False] and not has_default:
        raise ToolError(f"{parameter.name} of the tool {name} is said to be optional but has no default; give it one")
    return not has_default


def _shortened(schema: Schema) -> Schema:
    """A schema as people write it, which is shorter than pydantic's: `{"type": ["integer", "null"]}`."""
    found = {
        key: value
        for key, value in schema.items()
        if key not in ("items", "additionalProperties") or value not in ({}, True)
    }
    if "const" in found:
        found["enum"] = [found.pop("const")]
    if "enum" in found and "type" not in found:
        kinds = list(dict.fromkeys(_KINDS.get(type(choice), "object") for choice in found["enum"]))
        found["type"] = kinds[0] if len(kinds) == 1 else kinds
    members = [_shortened(member) for member in found.get("anyOf", ())]
    if {} in members:
        del found["anyOf"]
    elif members and all(set(member) == {"type"} and isinstance(member["type"], str) for member in members):
        del found["anyOf"]
        found["type"] = list(dict.fromkeys(member["type"] for member in members))
    elif len(members) == 2 and members[1] == {"type": "null"} and isinstance(members[0].get("type"), str):
        del found["anyOf"]
        found = {**members[0], **found, "type": [members[0]["type"], "null"]}
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
    first = [key for key in _FIRST if key in found]
    last = [key for key in _LAST if key in found]
    return {key: found[key] for key in [*first, *(key for key in found if key not in first + last), *last]}


def read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The description, and one text per parameter that has one: Google, NumPy and reST forms; nothing raises."""
    import docstring_parser

    text = _WIDE_COLON.sub(r"\1: ", inspect.getdoc(function) or "")
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return _joined(text), {}
    texts = {
        name.strip().lstrip("*"): " ".join((parameter.description or "").split())
        for parameter in parsed.params
        for name in parameter.arg_name.split(",")
    }
    return _joined(parsed.description or ""), texts


def _joined(text: str) -> str:
    """Paragraphs keep their empty line; the lines of one are joined."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()))
