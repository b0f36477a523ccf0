"""Results of tools beside the calls they answer. The model reads results in the order of its calls and knows no ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Protocol, TypeVar

from chatglm.serve.errors import wrong


class Said(Protocol):
    """What of a message counts here."""

    @property
    def role(self) -> str: ...
    @property
    def tool_calls(self) -> Sequence[Any] | None: ...
    @property
    def tool_call_id(self) -> str | None: ...


M = TypeVar("M", bound=Said)


def check_ids(messages: Sequence[Said]) -> None:
    """Refuses a result for a call that nobody has made. A result without an id is the next one's.

    Raises:
        ApiError: 400, naming the message.
    """
    open_calls: set[str] = set()
    for place, message in enumerate(messages):
        open_calls |= {call.id for call in message.tool_calls or ()}
        wanted = _answered(message)
        if wanted and wanted not in open_calls:
            known = ", ".join(sorted(filter(None, open_calls))) or "none"
            raise wrong(
                f"messages[{place}].tool_call_id",
                f"{wanted!r:.100} is no call of an earlier message that still waits for its result; waiting: {known}",
            )
        open_calls.discard(wanted)


def _answered(message: Said) -> str:
    """The id of the call that a message is the result of; "" where it is none or says none."""
    return (message.tool_call_id or "") if message.role in ("tool", "function", "observation") else ""


def in_order_of_calls(messages: Sequence[M]) -> list[M]:
    """The conversation, results that follow each other in the order in which they were called for."""
    place = {
        call.id: number for number, call in enumerate(call for message in messages for call in message.tool_calls or ())
    }
    ordered: list[M] = []
    for named, together in groupby(messages, lambda message: bool(_answered(message))):
        run = list(together)
        ordered += sorted(run, key=lambda message: place[_answered(message)]) if named else run
    return ordered
