"""The official `process_response`, on text and without its dangers: nothing is evaluated, nothing raises."""

from collections.abc import Iterable, Mapping
from typing import Any

from chatglm.chat.call import parse_tool_call
from chatglm.chat.message import Role
from chatglm.chat.parser import TRAINING_DATE, TRAINING_YEAR


def process_response(
    output: str, history: Iterable[Mapping[str, Any]] = ()
) -> tuple[str | dict[str, Any], list[dict[str, Any]]]:
    """Splits a decoded answer into official history items, and gives the last one as official callers expect it.

    The first line of a segment is its metadata unless it is blank or the only line. The result is the text of a plain
    answer; `{"name", "parameters"}` for a call where the first history item offers tools; else `{"name", "content"}`.
    A call that cannot be read gives `{"name", "content", "error"}`. The given history is left as it is.

    It cannot tell a marker the model spelled from a real one, nor an answer whose first line looks like a name:
    `StreamParser` works on token ids and can.

    Args:
        output: the decoded text of the whole answer, with `<|assistant|>` spelled out between its segments.
        history: the official history the answer belongs to.
    """
    items = [dict(item) for item in history]
    offers_tools = bool(items) and items[0].get("role") == Role.SYSTEM.value and "tools" in items[0]
    result: str | dict[str, Any] = ""
    for segment in output.split(Role.ASSISTANT.marker):
        metadata, newline, content = segment.partition("\n")
        if not newline:
            metadata, content = "", segment
        if not metadata.strip():
            content = content.strip()
            result = content.replace(TRAINING_DATE, TRAINING_YEAR)
        elif offers_tools:
            result = _call_result(metadata.strip(), content)
        else:
            result = {"name": metadata.strip(), "content": content}
        items.append({"role": Role.ASSISTANT.value, "metadata": metadata, "content": content})
    return result, items


def _call_result(name: str, content: str) -> dict[str, Any]:
    call = parse_tool_call(content, name)
    if call.arguments is None:
        return {"name": name, "content": content, "error": call.error}
    return {"name": name, "parameters": call.arguments}
