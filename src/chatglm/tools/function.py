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
    """The description of a function, its parameters as JSON schema, and their types by name."""

    description: str
    parameters: Schema
    types: dict[str, "ParameterType"]
    rest: "ParameterType | None"  # of all other arguments, where the function takes `**arguments`

    def build(self, values: dict[str, Any]) -> dict[str, Any]:
        """The arguments as the function takes them. Runs code of their types.

        Raises:
            ToolError: a type does not accept its value; says which and why.
        """
        found = {name: (self.types.get(name) or self.rest, value) for name, value in values.items()}
        return {name: value if kind is None else kind.build(name, value) for name, (kind, value) in found.items()}


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
    known = _hints(inner, name) if any(one.annotation is not one.empty for one in parameters) else {}
    description, texts = read_docstring(inner)
    types, properties, required, rest = {}, {}, [], None
    for one in parameters:
        where, kind = f"{one.name} of the tool {name}", known.get(one.name, Any)
        if one.kind in (one.VAR_POSITIONAL, one.POSITIONAL_ONLY):
            raise ToolError(f"{where} can only be given by position; a tool's arguments are given by name")
        if one.kind is one.VAR_KEYWORD:
            rest = ParameterType(kind, where)
            continue
        types[one.name] = ParameterType(kind, where)
        properties[one.name] = _property(types[one.name].schema, _said(kind), texts.get(one.name), one.default)
        if _is_required(one, kind, where):
            required.append(one.name)
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    if rest is not None:
        schema["additionalProperties"] = rest.schema or True
    return Signature(description, schema, types, rest)


class ParameterType:
    """A type as pydantic reads it: its JSON schema, and the way from JSON to its values.

    Raises:
        ToolError: it has no JSON form.
    """

    def __init__(self, kind: Any, where: str) -> None:
        from pydantic import ConfigDict, TypeAdapter

        try:
            holder = _typed_dict("Holder", {"value": _readable(kind)})
            holder.__pydantic_config__ = ConfigDict(extra="forbid")  # for dataclasses and typed dicts inside it
            self._adapter = TypeAdapter(holder)
            schema = self._adapter.json_schema()
        except Exception as error:  # of pydantic, or of the code of a foreign type
            words = getattr(kind, "__name__", None) or repr(kind)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ToolError(f"{where} is {words}, which has no JSON form: {reason}") from None
        definitions = schema.get("$defs", {})
        _add_texts([kind], definitions, set())
        whole = inlined({"$defs": definitions, **schema["properties"]["value"]}, where)
        self.schema: Schema = rebuilt(whole, _shortened, where)

    def build(self, name: str, value: Any) -> Any:
        """A value of the type, out of JSON."""
        from pydantic import ValidationError

        try:
            return self._adapter.validate_json(json.dumps({"value": value}))["value"]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = place([name, *first["loc"][1:]])
            raise ToolError(f"{where} is {spelled(first['input'])}, which is not accepted: {first['msg']}") from None


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


def _readable(kind: Any) -> Any:
    """The type, with `typing.TypedDict` as pydantic reads it: before Python 3.12 that of `typing_extensions`."""
    if sys.version_info >= (3, 12) or get_origin(kind) is typing.Literal:
        return kind
    if typing.is_typeddict(kind) and type(kind).__module__ == "typing":
        from typing_extensions import NotRequired, Required

        fields = {}
        for name, one in typing.get_type_hints(kind, include_extras=True).items():
            bare = get_args(one)[0] if get_origin(one) in (Required, NotRequired) else one
            fields[name] = (Required if name in kind.__required_keys__ else NotRequired)[_readable(bare)]
        return _typed_dict(kind.__name__, fields)
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        return Annotated.__class_getitem__((_readable(arguments[0]), *arguments[1:]))
    changed = tuple(_readable(one) for one in arguments)
    if changed == arguments:
        return kind
    return functools.reduce(operator.or_, changed) if get_origin(kind) in _UNIONS else get_origin(kind)[changed]


def _typed_dict(name: str, kinds: dict[str, Any]) -> Any:
    import typing_extensions

    make: Any = typing_extensions.TypedDict
    return make(name, kinds)


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


def _property(schema: Schema, said: str | None, documented: str | None, default: Any) -> Schema:
    """The schema of a parameter with the text about it and its default value."""
    found = {key: value for key, value in schema.items() if key not in _LAST}
    text = said or documented or schema.get("description")
    if text:
        found["description"] = text
    if default is None or default is inspect.Parameter.empty:
        return found
    value = getattr(default, "value", default)  # of an enum
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return found  # the model need not know it to leave the argument out
    return {**found, "default": value}


def _said(kind: Any) -> str | None:
    """The text in `Annotated[type, text]`, also in `NotRequired[...]` and the like."""
    if getattr(get_origin(kind), "_name", None) in _WRAPPERS:
        kind = get_args(kind)[0]
    for extra in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
        text = extra if isinstance(extra, str) else getattr(extra, "description", getattr(extra, "documentation", None))
        if isinstance(text, str) and text.strip():
            return " ".join(text.split())
    return None


def _is_required(parameter: inspect.Parameter, kind: Any, where: str) -> bool:
    """No default. `Annotated[type, text, required]` of the official demo may say it too, and must not contradict."""
    said = [extra for extra in get_args(kind)[1:] if isinstance(extra, bool)] if get_origin(kind) is Annotated else []
    has_default = parameter.default is not parameter.empty
    if said == [False] and not has_default:
        raise ToolError(f"{where} is said to be optional but has no default; give it one")
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
