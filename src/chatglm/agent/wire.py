"""Events as JSON and back: the one form in which pages, servers and files hold them."""

import base64
import binascii
import re
import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from chatglm.agent.events import TaskEvent
from chatglm.chat.message import Done
from chatglm.errors import SessionError

KINDS: dict[str, type] = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower(): kind for kind in (*get_args(TaskEvent), Done)
}
_NAMES = {kind: name for name, kind in KINDS.items()}


def to_json(event: TaskEvent | Done) -> dict[str, Any]:
    """An event as JSON values: its fields, and `event`, its name: `text_delta`, `observation`, ... Bytes are base64."""
    return {"event": _NAMES[type(event)], **_fields(event)}


def from_json(item: Any) -> Any:
    """The event that `to_json` has written.

    Raises:
        SessionError: it is none; says what is wrong with it.
    """
    if not isinstance(item, dict) or not isinstance(item.get("event"), str) or item["event"] not in KINDS:
        raise SessionError(f"{item!r:.200} is no event; it must be an object with 'event': one of {', '.join(KINDS)}")
    values = {name: value for name, value in item.items() if name != "event"}
    return _made(KINDS[item["event"]], values, item["event"])


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, tuple):
        return list(value)
    return _fields(value) if is_dataclass(value) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _made(kind: type, values: Any, where: str) -> Any:
    hints = _hints(kind)
    if not isinstance(values, dict) or values.keys() != hints.keys():
        seen = sorted(map(str, values)) if isinstance(values, dict) else values
        raise SessionError(f"{where} has the fields {seen!r:.200}; they must be {', '.join(hints) or 'none'}")
    return kind(**{name: _read(values[name], hint, f"{where}.{name}") for name, hint in hints.items()})


def _read(value: Any, hint: Any, where: str) -> Any:
    """The value of a field, if it is what its type says."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            hint = types.NoneType
        else:
            [hint] = [option for option in get_args(hint) if option is not types.NoneType]
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _made(hint, value, where)
    if hint is bytes and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    elif get_origin(hint) is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    elif get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
    elif _is_plain(value, get_origin(hint) or hint):
        return value
    choices = f"one of {', '.join(map(repr, get_args(hint)))}" if get_origin(hint) is Literal else ""
    raise SessionError(f"{where} is {value!r:.200}; it must be {choices or getattr(hint, '__name__', hint)}")


def _is_plain(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
