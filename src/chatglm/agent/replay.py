"""A trace told again; given tools, its actions are carried out again and what comes out is compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from chatglm.agent.actions import Actions, Ask
from chatglm.agent.events import Observation
from chatglm.agent.trace import Record, read_trace
from chatglm.chat.message import INTERPRETER, ToolCall
from chatglm.chat.parser import Segment
from chatglm.errors import TraceError
from chatglm.tools.toolbox import Tool, ToolBox

_UNCARRIED = ("refused", "stopped")  # then there is nothing to compare with


@dataclass(frozen=True, slots=True)
class Replayed:
    """A record of the trace; for an action that was carried out again also what came out.

    `same` says whether it is what the trace has, to the character; None where nothing was compared.
    """

    record: Record
    observed: Observation | None = None
    same: bool | None = None


def replay(
    path: str | PathLike[str],
    *,
    tools: ToolBox | Sequence[Tool] | None = None,
    sandbox: Any = None,
    on_dangerous: Ask | None = None,
) -> Iterator[Replayed]:
    """The records of a trace in order.

    Args:
        path: a file written by `TraceWriter`.
        tools: actions of these tools are carried out again.
        sandbox: a fresh `chatglm.sandbox.Sandbox`: code is run again in it. None: it is not.
        on_dangerous: asked before a dangerous tool is used again; without it none is.

    Raises:
        TraceError: the file is no trace.
    """
    records = read_trace(path)
    actions = Actions(tools if isinstance(tools, ToolBox) else ToolBox(tools or ()), sandbox, on_dangerous)
    return _replay(records, actions)


def _replay(records: Sequence[Record], actions: Actions) -> Iterator[Replayed]:
    carried_out = {record["id"] for record in records if _answers(record) and record["status"] not in _UNCARRIED}
    waiting: dict[int, Observation] = {}
    for record in records:
        if record["kind"] == "action" and record["id"] in carried_out and _can(record, actions):
            waiting[record["id"]] = _again(_segment(record), actions)
        observed = waiting.pop(record["id"], None) if _answers(record) else None
        yield Replayed(record, observed, None if observed is None else observed.text == record["text"])


def _again(segment: Segment, actions: Actions) -> Observation:
    return actions.carry_out(segment, actions.allows(segment) is True, lambda: False)[0]


def _answers(record: Record) -> bool:
    return record["kind"] == "observation" and isinstance(record.get("id"), int)


def _can(record: Record, actions: Actions) -> bool:
    return actions.sandbox is not None if record["name"] == INTERPRETER else record["name"] in actions.tools


def _segment(record: Record) -> Segment:
    """What the model had written, as the parser gave it."""
    name, arguments, code = record["name"], record.get("arguments"), record.get("code")
    if name == INTERPRETER:
        if not isinstance(code, str):
            raise TraceError(f"action {record['id']} is code and has none; a record of code must have 'code', a text")
        return Segment("code", name, code, code, (), code=code, id=record["id"])
    if arguments is not None and not isinstance(arguments, dict):
        raise TraceError(f"action {record['id']} has the arguments {arguments!r}; they must be an object")
    raw, error = str(record.get("raw", "")), record.get("error")
    call = ToolCall(name, arguments, raw, error and str(error))
    return Segment("tool_call", name, raw, raw, (), call=call, id=record["id"])
