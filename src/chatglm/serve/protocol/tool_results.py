"""Results of tools beside the calls they answer. The model reads results in the order of its calls and knows no ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from chatglm.serve.errors import wrong

if TYPE_CHECKING:
    from chatglm.serve.protocol.chat import ChatMessage


def check_ids(messages: Sequence[ChatMessage]) -> None:
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


def _answered(message: ChatMessage) -> str:
    """The id of the call that a message is the result of; "" where it is none or says none."""
    return (message.tool_call_id or "") if message.role in ("tool", "function", "observation") else ""


def in_order_of_calls(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The conversation, results that follow each other in the order in which they were called for."""
    place = {
        call.id: number for number, call in enumerate(call for message in messages for call in message.tool_calls or ())
    }
    ordered: list[ChatMessage] = []
    for named, run in groupby(messages, lambda message: bool(_answered(message))):
        ordered += sorted(run, key=lambda message: place[_answered(message)]) if named else run
    return ordered
