"""A data file in another spelling: `chatglm data convert`."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatglm.chat.call import format_tool_call, parse_tool_call
from chatglm.chat.message import INTERPRETER, Message, Role
from chatglm.errors import ChatGLMError, DataError
from chatglm.train.formats import Columns, Format, sample_of
from chatglm.train.rows import read_rows
from chatglm.train.sample import Sample

_SPEAKERS = {Role.SYSTEM: "system", Role.USER: "human", Role.ASSISTANT: "gpt", Role.OBSERVATION: "observation"}


def respell(source: str | Path, target: str | Path, to: Format, columns: Columns | None = None) -> int:
    """Write the rows of a file or folder as `to`, into a new `.jsonl` file; gives their number.

    Raises:
        DataError: a row that cannot be read, or that `to` has no form for, named by file and line; the target is there
            or of another kind. Nothing is written then.
    """
    target = Path(target)
    if target.suffix != ".jsonl":
        raise DataError(f"{target} ends in {target.suffix!r}; the file to write must end in .jsonl")
    if target.exists():
        raise DataError(f"{target} is there already; give a new file to write")
    part = target.with_name(f".{target.name}.part")
    count = 0
    if not target.parent.is_dir():
        raise DataError(f"there is no folder {target.parent} to write {target.name} into")
    try:
        with part.open("w", encoding="utf-8") as stream:
            for row in _respelled(source, to, columns):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        if not count:
            raise DataError(f"{source} holds no row")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return count


def _respelled(source: str | Path, to: Format, columns: Columns | None) -> Iterator[dict[str, Any]]:
    for row in read_rows(source):
        try:
            if row.problem is not None:
                raise DataError(row.problem)
            yield spelled(sample_of(row.value, columns), to)
        except ChatGLMError as error:
            raise DataError(f"{row.place}: {error}") from error


def spelled(sample: Sample, to: Format) -> dict[str, Any]:
    """A sample as a row of the format `to`.

    Raises:
        DataError: the format has no form for it.
    """
    if (sample.text is None) == (to == "text"):
        raise DataError(f"a {'text' if to != 'text' else 'conversation'} cannot be written as {to}")
    row: dict[str, Any] = {"text": sample.text} if to == "text" else _WRITERS[to](sample)
    return row


def _tools(messages: Sequence[Message]) -> dict[str, Any]:
    return {"tools": messages[0].tools} if messages and messages[0].tools is not None else {}


def _official(sample: Sample) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    pairs = list(zip(sample.messages, sample.loss, strict=True))
    index = 0
    while index < len(pairs):
        message, learned = pairs[index]
        item = _tool_item(message, pairs[index + 1][0]) if index + 1 < len(pairs) else None
        index += 1 if item is None else 2
        if item is None:
            item = {"role": message.role.value, "content": message.content}
            item |= {"metadata": message.metadata} if message.metadata else {}
        items.append(item | ({} if learned is None else {"loss": learned}))
    return {**_tools(sample.messages), "conversations": items}


def _tool_item(call: Message, observation: Message) -> dict[str, Any] | None:
    """The official item for a call and its result, where it says exactly the same."""
    if not call.metadata or observation.role is not Role.OBSERVATION or call.metadata == INTERPRETER:
        return None
    arguments = parse_tool_call(call.content, call.metadata).arguments
    if arguments is None or format_tool_call(arguments) != call.content:
        return None
    return {"role": "tool", "name": call.metadata, "parameters": arguments, "observation": observation.content}


def _openai(sample: Sample) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    calls: list[str] = []  # ids that wait for their result
    for number, (message, learned) in enumerate(zip(sample.messages, sample.loss, strict=True)):
        weight = {} if learned is None else {"weight": int(learned)}
        if message.metadata:
            calls.append(f"call_{number}")
            call = {"id": calls[-1], "type": "function", "function": _function(message)}
            items.append({"role": "assistant", "content": None, "tool_calls": [call], **weight})
        elif message.role is Role.OBSERVATION:
            which = {"tool_call_id": calls.pop(0)} if calls else {}
            items.append({"role": "tool", "content": message.content, **which})
        else:
            items.append({"role": message.role.value, "content": message.content, **weight})
    offered = [{"type": "function", "function": tool} for tool in _tools(sample.messages).get("tools", [])]
    return {"messages": items} | ({"tools": offered} if offered else {})


def _function(message: Message) -> dict[str, str]:
    return {"name": message.metadata, "arguments": json.dumps(_arguments(message), ensure_ascii=False)}


def _arguments(message: Message) -> Mapping[str, Any]:
    arguments = parse_tool_call(message.content, message.metadata).arguments
    if message.metadata == INTERPRETER or arguments is None or format_tool_call(arguments) != message.content:
        raise DataError(f"a turn of {message.metadata!r} is {message.content!r:.60}; only tool calls can be written so")
    return arguments


def _sharegpt(sample: Sample) -> dict[str, Any]:
    _refuse_loss(sample, "sharegpt")
    items = []
    for message in sample.messages:
        if message.metadata:
            value = {"name": message.metadata, "arguments": _arguments(message)}
            items.append({"from": "function_call", "value": json.dumps(value, ensure_ascii=False)})
        else:
            items.append({"from": _SPEAKERS[message.role], "value": message.content})
    return {"conversations": items, **_tools(sample.messages)}


def _alpaca(sample: Sample) -> dict[str, Any]:
    has_system = sample.messages[0].role is Role.SYSTEM
    system = {"system": sample.messages[0].content} if has_system else {}
    question, answer, history = _plain(sample, sample.messages[has_system:], "alpaca")
    earlier = {"history": history} if history else {}
    return {"instruction": question, "input": "", "output": answer, **earlier, **system}


def _chatglm2(sample: Sample) -> dict[str, Any]:
    question, answer, history = _plain(sample, sample.messages, "chatglm2")
    return {"prompt": question, "response": answer, "history": history}


def _plain(sample: Sample, messages: Sequence[Message], to: str) -> tuple[str, str, list[list[str]]]:
    """The last question and answer, and the pairs before."""
    _refuse_loss(sample, to)
    roles = [message.role for message in messages]
    if not roles or roles != [Role.USER, Role.ASSISTANT] * (len(roles) // 2) or sample.messages[0].tools is not None:
        raise DataError(f"it has tools, or no questions and answers in turn; {to} has no form for that")
    if any(message.metadata for message in messages):
        raise DataError(f"it has calls, for which {to} has no form")
    texts = [message.content for message in messages]
    history = [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    return texts[-2], texts[-1], history


def _refuse_loss(sample: Sample, to: str) -> None:
    if any(learned is not None for learned in sample.loss):
        raise DataError(f"it says what is learned ('loss'), for which {to} has no form")


_WRITERS = {
    "official": _official, "openai": _openai, "sharegpt": _sharegpt, "alpaca": _alpaca, "chatglm2": _chatglm2,
}  # fmt: skip
