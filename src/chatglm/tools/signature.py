"""What a function's signature and docstring say about it as a tool."""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from chatglm.errors import ToolError
from chatglm.tools.annotations import Convert, Described, describe, hints, same
from chatglm.tools.docstring import read_docstring


@dataclass(frozen=True)
class Signature:
    """The description of a function, its parameters as JSON schema, and the way from JSON to its arguments.

    `convert_rest` is for the arguments of a function that takes `**arguments`.
    """

    description: str
    parameters: dict[str, Any]
    convert: dict[str, Convert]
    convert_rest: Convert


def read_signature(function: Callable[..., Any], name: str) -> Signature:
    """Reads a function.

    Raises:
        ToolError: it cannot be described as a tool; names the parameter and what would be right.
    """
    inner = _inner(function)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise ToolError(f"the tool {name} has no signature Python can read; write a function around it") from None
    known = hints(inner, f"the tool {name}") if any(_is_annotated(parameter) for parameter in parameters) else {}
    documented = read_docstring(inner)
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    convert: dict[str, Convert] = {}
    convert_rest: Convert = same
    required = []
    for parameter in parameters:
        where = f"{parameter.name} of the tool {name}"
        kind = known.get(parameter.name, Any)
        described = describe(kind, where)
        if _is_rest(parameter, where):
            schema["additionalProperties"] = described.schema or True
            convert_rest = described.convert
            continue
        convert[parameter.name] = described.convert
        schema["properties"][parameter.name] = _property(parameter, described, documented.parameters, where)
        if _is_required(parameter, kind, where):
            required.append(parameter.name)
    schema["required"] = required
    if "additionalProperties" in schema:  # after the others, as people write it
        schema["additionalProperties"] = schema.pop("additionalProperties")
    return Signature(documented.description, schema, convert, convert_rest)


def _is_annotated(parameter: inspect.Parameter) -> bool:
    return parameter.annotation is not inspect.Parameter.empty


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where annotations and docstring are: behind `functools.partial`, and in the class of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    inner: Callable[..., Any] = function if inspect.isroutine(function) else type(function).__call__
    inner = inspect.unwrap(inner)
    return inner


def _is_rest(parameter: inspect.Parameter, where: str) -> bool:
    if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.POSITIONAL_ONLY:
        raise ToolError(f"{where} can only be given by position; a tool's arguments are given by name")
    return parameter.kind is parameter.VAR_KEYWORD


def _property(
    parameter: inspect.Parameter, described: Described, documented: dict[str, str], where: str
) -> dict[str, Any]:
    schema = dict(described.schema)
    text = schema.pop("description", None) or documented.get(parameter.name)
    if text:
        schema["description"] = text
    default = parameter.default
    if default is None or default is parameter.empty:
        return schema
    value = getattr(default, "value", default)  # of an enum
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return schema  # the model need not know it to leave the argument out
    schema["default"] = value
    return schema


def _is_required(parameter: inspect.Parameter, kind: Any, where: str) -> bool:
    """No default. `Annotated[type, text, required]` of the official demo may say it too, and must not contradict."""
    said = [extra for extra in get_args(kind)[1:] if isinstance(extra, bool)] if get_origin(kind) is Annotated else []
    has_default = parameter.default is not parameter.empty
    if said == [False] and not has_default:
        raise ToolError(f"{where} is said to be optional but has no default; give it one")
    return not has_default
