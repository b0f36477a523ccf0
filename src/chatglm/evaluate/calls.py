"""Calls of functions in an answer, and whether they are those that are wanted, by the rules of BFCL.

A wanted call is `{function: {argument: [values that are right]}}`; the empty text among the values says that the
argument may be left out. What BFCL's own program asks: the function by its name, `.` and `_` being the same in it;
every required argument and no unknown one; the type that the function declares, whole numbers being numbers too; and a
value that is listed, texts without regard to case, blanks and the signs `,./-_*^`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from chatglm.chat.message import Role
from chatglm.chat.parser import StreamParser
from chatglm.evaluate.item import Item

_TYPES: Mapping[str, type] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict,
}  # fmt: skip
_END = -1  # stands for the marker between two parts of an answer
Values = Mapping[str, Any]


class _Characters:
    """A decoder whose ids are characters."""

    def push(self, token_id: int, /) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


def written_calls(text: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """The calls in an answer as the model writes them, read by the chat format's own parser; none, where one of them
    cannot be read.

    Args:
        text: parts of an answer, `<|assistant|>` between them.
        names: of the functions that were offered.
    """
    parser = StreamParser(_Characters(), assistant_id=_END, stop_ids=(), tools=names)
    for index, part in enumerate(text.split(Role.ASSISTANT.marker)):
        for character in [*([_END] if index else []), *map(ord, part)]:
            parser.feed(character)
    parser.finish()
    found = [segment.call for segment in parser.segments if segment.call is not None]
    if any(call.arguments is None for call in found):
        return []
    return [{"name": call.name, "arguments": call.arguments} for call in found]


def grade_calls(answer: str, item: Item) -> tuple[float, str]:
    """The score of calls, and why it is not 1; each wanted call must be there once, in any order, and no other.

    Args:
        answer: a JSON list of `{"name", "arguments"}`.
        item: whose gold is the JSON list of wanted calls.
    """
    made, wanted = json.loads(answer), json.loads(item.gold[0])
    if len(made) != len(wanted):
        return 0.0, f"{len(made)} calls were made, {len(wanted)} are wanted"
    functions = {_name(tool["name"]): tool for tool in item.extra["tools"]}
    for call in wanted:
        ((name, arguments),) = call.items()
        reasons = [_wrong(one, _name(name), arguments, functions) for one in made]
        if None not in reasons:
            return 0.0, str(reasons[0])
        del made[reasons.index(None)]
    return 1.0, ""


def _wrong(made: Values, name: str, wanted: Values, functions: Mapping[str, Values]) -> str | None:
    """What is wrong with a call; None: nothing."""
    if _name(made["name"]) != name:
        return f"{made['name']} was called, {name} is wanted"
    parameters = functions.get(name, {}).get("parameters", {})
    declared = parameters.get("properties", {})
    missing = next((one for one in parameters.get("required", ()) if one not in made["arguments"]), None)
    if missing is not None:
        return f"{name} needs {missing}"
    for argument, value in made["arguments"].items():
        if argument not in declared or argument not in wanted:
            return f"{name} has no {argument}" if argument not in declared else f"{argument} should be left out"
        if not _right(value, wanted[argument], declared[argument]):
            return f"{argument} is {value!r:.60}; right is {wanted[argument]!r:.80}"
    left = next((one for one in wanted if one not in made["arguments"] and "" not in wanted[one]), None)
    return None if left is None else f"{left} is left out"


def _right(value: Any, right: Sequence[Any], declared: Values) -> bool:
    """Whether an argument has a type and a value that fit. Where the right values are of another type than is declared,
    they stand for a variable, and count as they are."""
    kind = _TYPES.get(declared.get("type", "string"), str)
    if kind is float and type(value) is int:
        value = float(value)
    known = next((type(one) for one in right if one != ""), None)
    variable = known is not None and known is not kind
    of_kind = type(value) is kind
    if not of_kind:
        return type(value) is known and value in right
    if kind is list and (inner := _TYPES.get(declared.get("items", {}).get("type", ""))) is not None:
        lists: list[list[Any]] = [one for one in right if isinstance(one, list)]
        if not any(all(_fits(each, inner, one) for each in value) for one in lists):
            return False
        if inner is dict and not variable:
            return any(_same_objects(value, one) for one in lists)
    if variable:
        return value in right
    if kind is dict:
        return any(_same_object(value, one) for one in right if isinstance(one, dict))
    return _plain(value) in [_plain(one) for one in right if type(one) is type(value) or kind is float]


def _fits(value: Any, kind: type, right: Sequence[Any]) -> bool:
    """Whether a member of a list has the declared type, or that of the right ones."""
    known = next((type(one) for one in right if one != ""), None)
    return type(value) is kind or kind is float and type(value) is int or known is not None and type(value) is known


def _same_objects(value: Sequence[Any], right: Sequence[Any]) -> bool:
    pairs = zip(value, right, strict=False)
    return len(value) == len(right) and all(_same_object(one, other) for one, other in pairs)


def _same_object(value: Any, right: Mapping[str, Any]) -> bool:
    """Whether an object has right values under all its keys, and lacks none that must be there."""
    if not isinstance(value, dict) or not all(key in right for key in value):
        return False
    if not all(_plain(one) in [_plain(other) for other in right[key]] for key, one in value.items()):
        return False
    return all(key in value or "" in right[key] for key in right)


def _plain(value: Any) -> Any:
    """Texts, also those in lists, without case, blanks and the signs that do not count."""
    if isinstance(value, str):
        return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _name(name: str) -> str:
    return name.replace(".", "_")
