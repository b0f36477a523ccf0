"""Python types as JSON schema, and JSON values as values of those types.

`describe` handles the plain types, `Any`, `Literal`, unions, enums, lists, tuples, sets, dicts, dataclasses, typed
dicts, dates, and whatever brings `model_json_schema` and `model_validate` (pydantic's models).
"""

import dataclasses
import datetime
import decimal
import enum
import inspect
import pathlib
import types
import typing
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence, Set
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from chatglm.errors import ToolError
from chatglm.tools.schema import check_value
from chatglm.tools.schema_rules import inlined

Schema = dict[str, Any]
Convert = Callable[[Any], Any]

_PLAIN: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    None: "null",
    type(None): "null",
    dict: "object",
    list: "array",
}
_FORMATS: dict[Any, tuple[str, Convert]] = {
    datetime.datetime: ("date-time", lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))),
    datetime.date: ("date", datetime.date.fromisoformat),
    datetime.time: ("time", datetime.time.fromisoformat),
    uuid.UUID: ("uuid", uuid.UUID),
    decimal.Decimal: ("decimal", decimal.Decimal),
    pathlib.Path: ("path", pathlib.Path),
}
_COLLECTIONS: dict[Any, Callable[[Iterable[Any]], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    Set: set,
    **dict.fromkeys((Sequence, MutableSequence, Iterable, Collection), list),
}
_MAPPINGS = (dict, Mapping, MutableMapping)
_LIMITS = {  # attributes of what `annotated_types` and pydantic put into `Annotated`, and the keywords they mean
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
}


@dataclasses.dataclass(frozen=True)
class Described:
    """A type as JSON schema, with the way from a JSON value of that schema to a value of the type."""

    schema: Schema
    convert: Convert


def same(value: Any) -> Any:
    """The value itself: JSON has this type."""
    return value


def describe(annotation: Any, where: str = "the type") -> Described:
    """A type as JSON schema.

    Raises:
        ToolError: the type has no JSON form; `where` says whose it is.
    """
    return _describe(annotation, where, ())


def _describe(annotation: Any, where: str, outer: tuple[Any, ...]) -> Described:
    if annotation is Any or annotation is inspect.Parameter.empty or annotation is object:
        return Described({}, same)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = _describe(arguments[0], where, outer)
        return Described({**found.schema, **_annotated(arguments[1:], found.schema)}, found.convert)
    if hasattr(annotation, "__supertype__"):
        return _describe(annotation.__supertype__, where, outer)
    if hasattr(annotation, "__value__"):  # `type X = ...`
        return _describe(annotation.__value__, where, outer)
    if annotation in _FORMATS:
        name, convert = _FORMATS[annotation]
        return Described({"type": "string", "format": name}, convert)
    if origin is Literal:
        return Described(_choices(arguments, where), same)
    if origin is Union or origin is types.UnionType:
        return _union([_describe(argument, where, outer) for argument in arguments])
    container = _container(annotation, origin or annotation, arguments, where, outer)
    if container is not None:
        return container
    if annotation in _PLAIN:
        return Described({"type": _PLAIN[annotation]}, float if annotation is float else same)
    if isinstance(annotation, type):
        return _class(annotation, where, outer)
    raise _no_form(annotation, where)


def _no_form(annotation: Any, where: str) -> ToolError:
    name = getattr(annotation, "__name__", None) or repr(annotation)
    return ToolError(
        f"{where} is {name}, which has no JSON form; it must be made of str, int, float, bool, None, list, tuple, "
        f"dict, Literal, Optional, Enum, dataclasses, TypedDict, dates or pydantic models"
    )


def _annotated(extras: tuple[Any, ...], schema: Schema) -> Schema:
    """The texts and limits in `Annotated[type, ...]`."""
    added: Schema = {}
    for extra in extras:
        text = extra if isinstance(extra, str) else getattr(extra, "description", getattr(extra, "documentation", None))
        if isinstance(text, str) and "description" not in added:
            added["description"] = " ".join(text.split())
        added.update(_limits(extra, schema))
        for inner in getattr(extra, "metadata", ()):
            added.update(_limits(inner, schema))
    return added


def _limits(extra: Any, schema: Schema) -> Schema:
    found: Schema = {}
    if isinstance(extra, (str, bool)):
        return found
    items = "Items" if schema.get("type") == "array" else "Length"
    for attribute, keyword in {**_LIMITS, "min_length": f"min{items}", "max_length": f"max{items}"}.items():
        value = getattr(extra, attribute, None)
        if value is not None and isinstance(value, (int, float, str)):
            found[keyword] = value
    return found


def _choices(values: tuple[Any, ...], where: str) -> Schema:
    for value in values:
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise ToolError(f"{where} offers the choice {value!r}; a choice must be a text, number, boolean or None")
    kinds = list(dict.fromkeys(_PLAIN[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _union(members: list[Described]) -> Described:
    members = [member for index, member in enumerate(members) if member not in members[:index]]
    if any(not member.schema for member in members):
        return Described({}, same)
    convert = _union_convert(members)
    if all(set(member.schema) == {"type"} and isinstance(member.schema["type"], str) for member in members):
        names = list(dict.fromkeys(member.schema["type"] for member in members))
        return Described({"type": names[0] if len(names) == 1 else names}, convert)
    if len(members) == 2 and members[1].schema == {"type": "null"} and isinstance(members[0].schema.get("type"), str):
        schema = {**members[0].schema, "type": [members[0].schema["type"], "null"]}
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        return Described(schema, convert)
    return Described({"anyOf": [member.schema for member in members]}, convert)


def _union_convert(members: list[Described]) -> Convert:
    def convert(value: Any) -> Any:
        """The first type the value fits; a text that is a date in form but not in fact goes on to the next."""
        problem: Exception | None = None
        for member in members:
            if check_value(value, member.schema)[1]:
                continue
            try:
                return member.convert(value)
            except (ValueError, ArithmeticError) as error:
                problem = error
        raise problem or ValueError("it fits none of the types")

    return convert


def _container(
    annotation: Any, base: Any, arguments: tuple[Any, ...], where: str, outer: tuple[Any, ...]
) -> Described | None:
    """A list, tuple, set or dict; None for any other type."""
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        return _fixed_tuple([_describe(argument, where, outer) for argument in arguments])
    if base in _COLLECTIONS:
        item = _describe(arguments[0] if arguments else Any, where, outer)
        build = _COLLECTIONS[base]
        schema: Schema = {"type": "array", **({"items": item.schema} if item.schema else {})}
        if build in (set, frozenset):
            schema["uniqueItems"] = True
        return Described(schema, lambda values: build(item.convert(value) for value in values))
    return _mapping(arguments, where, outer) if base in _MAPPINGS else None


def _fixed_tuple(items: list[Described]) -> Described:
    length = len(items)
    schema: Schema = {"type": "array", "prefixItems": [item.schema for item in items]}
    schema |= {"minItems": length, "maxItems": length}
    return Described(
        schema, lambda values: tuple(item.convert(value) for item, value in zip(items, values, strict=True))
    )


def _mapping(arguments: tuple[Any, ...], where: str, outer: tuple[Any, ...]) -> Described:
    if not arguments:
        return Described({"type": "object"}, same)
    if arguments[0] is not str and arguments[0] is not Any:
        raise ToolError(f"{where} is a dict with keys of type {arguments[0]!r}; keys must be str")
    value = _describe(arguments[1], where, outer)
    schema: Schema = {"type": "object", "additionalProperties": value.schema if value.schema else True}
    return Described(schema, lambda values: {key: value.convert(item) for key, item in values.items()})


def _class(annotation: type, where: str, outer: tuple[Any, ...]) -> Described:
    if annotation in outer:
        raise ToolError(f"{where} is {annotation.__name__}, which contains itself; a schema must end somewhere")
    outer = (*outer, annotation)
    if issubclass(annotation, enum.Enum):
        return Described(_choices(tuple(member.value for member in annotation), where), annotation)
    if hasattr(annotation, "model_json_schema") and hasattr(annotation, "model_validate"):
        return Described(inlined(annotation.model_json_schema(), where), annotation.model_validate)
    if dataclasses.is_dataclass(annotation):
        return _dataclass(annotation, where, outer)
    if typing.is_typeddict(annotation):
        return _typed_dict(annotation, where, outer)
    raise _no_form(annotation, where)


def hints(owner: Any, where: str) -> dict[str, Any]:
    """The annotations of a function or class, with those written as text looked up.

    Raises:
        ToolError: an annotation names something that is not there.
    """
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except Exception as error:  # whatever an annotation that is evaluated may raise
        raise ToolError(f"the annotations of {where} cannot be read: {type(error).__name__}: {error}") from None


def _fields(kinds: dict[str, Any], required: list[str], where: str, outer: tuple[Any, ...]) -> tuple[Schema, Any]:
    found = {name: _describe(kind, f"{name} of {where}", outer) for name, kind in kinds.items()}
    schema: Schema = {"type": "object", "properties": {name: item.schema for name, item in found.items()}}
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False

    def convert(values: dict[str, Any]) -> dict[str, Any]:
        return {name: found[name].convert(value) for name, value in values.items()}

    return schema, convert


def _dataclass(annotation: Any, where: str, outer: tuple[Any, ...]) -> Described:
    known = hints(annotation, annotation.__name__)
    fields = [field for field in dataclasses.fields(annotation) if field.init]
    missing = dataclasses.MISSING
    required = [field.name for field in fields if field.default is missing and field.default_factory is missing]
    schema, convert = _fields({field.name: known[field.name] for field in fields}, required, where, outer)
    return Described(schema, lambda values: annotation(**convert(values)))


def _typed_dict(annotation: Any, where: str, outer: tuple[Any, ...]) -> Described:
    known = {name: _bare(kind) for name, kind in hints(annotation, annotation.__name__).items()}
    required = [name for name in known if name in annotation.__required_keys__]
    return Described(*_fields(known, required, where, outer))


def _bare(kind: Any) -> Any:
    """The type inside `Required[...]`, `NotRequired[...]` and `ReadOnly[...]`."""
    name = getattr(get_origin(kind), "_name", None)
    return _bare(get_args(kind)[0]) if name in ("Required", "NotRequired", "ReadOnly") else kind
