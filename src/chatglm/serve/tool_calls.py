"""Calls as the OpenAI format tells them: an id, a name, and the arguments as pieces of JSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from chatglm.chat.parser import Segment


def new_id(prefix: str) -> str:
    """An id nobody can guess."""
    return f"{prefix}{uuid.uuid4().hex}"


def readable(segment: Segment) -> bool:
    """Whether a segment is a call whose arguments could be read."""
    return segment.call is not None and segment.call.arguments is not None


def pieces(segment: Segment) -> Iterator[str]:
    """The arguments of a call, one piece for each; together they are one JSON object."""
    arguments = segment.call.arguments if segment.call is not None else None
    lead = "{"
    for name, value in (arguments or {}).items():
        yield f"{lead}{json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
        lead = ", "
    yield "}" if arguments else "{}"


def whole(segment: Segment, call_id: str) -> dict[str, Any]:
    """A complete call."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": segment.metadata, "arguments": "".join(pieces(segment))},
    }


def as_text(segment: Segment) -> str:
    """What a client is shown of a segment: calls that could not be read, and code nobody runs, as they were written."""
    return segment.display if segment.kind == "text" else f"{segment.metadata}\n{segment.content}"
