"""`POST /v1/responses`: answers as items, whole or as typed events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from chatglm.agent.answer import Answer
from chatglm.chat.message import TextDelta, ToolCallDone
from chatglm.chat.parser import Segment
from chatglm.serve import chat, tool_calls
from chatglm.serve.protocol.chat import ChatRequest
from chatglm.serve.protocol.responses import ResponsesRequest
from chatglm.serve.service import Answers
from chatglm.serve.stream import event


async def whole(asked: ResponsesRequest, request: ChatRequest, answers: Answers) -> dict[str, Any]:
    """The body of a `response`."""
    async for index, events in answers.events():
        chat.end_after_first_call(request, answers, index, events)
    answer = answers.made[0]
    calls = chat.calls_of(request, answer)
    output = [_item(segment, segment in calls) for segment in answer.segments if segment.content]
    return _response(asked, answer, tool_calls.new_id("resp_"), output)


def _response(
    asked: ResponsesRequest, answer: Answer, response_id: str, output: list[dict[str, Any]], *, done: bool = True
) -> dict[str, Any]:
    cut = answer.finish_reason == "length"
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": ("incomplete" if cut else "completed") if done else "in_progress",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if done and cut else None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": {},
        "model": asked.model,
        "output": output,
        "parallel_tool_calls": asked.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": asked.temperature,
        "text": {"format": _format(asked)},
        "tool_choice": _choice(asked),
        "tools": [tool.model_dump() for tool in asked.tools],
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": _usage(answer) if done else None,
    }


def _format(asked: ResponsesRequest) -> dict[str, Any]:
    wanted = asked.text.format if asked.text is not None else None
    return {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True)


def _choice(asked: ResponsesRequest) -> Any:
    choice = asked.tool_choice
    return choice if choice is None or isinstance(choice, str) else choice.model_dump()


def _usage(answer: Answer) -> dict[str, Any]:
    usage = chat.usage([answer])
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


def _item(segment: Segment, called: bool) -> dict[str, Any]:
    if called:
        arguments = "".join(tool_calls.pieces(segment))
        return _call_item(segment, tool_calls.new_id("fc_"), tool_calls.new_id("call_"), arguments)
    return _text_item(tool_calls.new_id("msg_"), tool_calls.as_text(segment))


def _text_item(item_id: str, text: str | None, status: str = "completed") -> dict[str, Any]:
    parts = [] if text is None else [_part(text)]
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": parts}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(
    segment: Segment, item_id: str, call_id: str, arguments: str, status: str = "completed"
) -> dict[str, Any]:
    head = {"id": item_id, "type": "function_call", "status": status}
    return head | {"call_id": call_id, "name": segment.metadata, "arguments": arguments}


async def chunks(asked: ResponsesRequest, request: ChatRequest, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The typed events of a streamed response."""
    answer, number, response_id = answers.made[0], 0, tool_calls.new_id("resp_")
    items = _Items(request, answer)

    def numbered(data: dict[str, Any]) -> bytes:
        nonlocal number
        number += 1
        return event(data | {"sequence_number": number - 1}, data["type"])

    async with answers:
        for kind in ("response.created", "response.in_progress"):
            yield numbered({"type": kind, "response": _response(asked, answer, response_id, [], done=False)})
        async for index, events in answers.events():
            for item in events:
                if isinstance(item, TextDelta) and item.text:
                    for data in items.text(item.text):
                        yield numbered(data)
                elif isinstance(item, ToolCallDone):
                    for data in items.finished_segments():
                        yield numbered(data)
            chat.end_after_first_call(request, answers, index, events)
        for data in (*items.finished_segments(), *items.close()):
            yield numbered(data)
        response = _response(asked, answer, response_id, items.done)
        yield numbered({"type": f"response.{response['status']}", "response": response})


class _Items:
    """The items of a stream; a text item may be open."""

    def __init__(self, request: ChatRequest, answer: Answer) -> None:
        self.request, self.answer = request, answer
        self.done: list[dict[str, Any]] = []
        self._text: list[str] | None = None
        self._id, self._told = "", 0

    def text(self, text: str) -> Iterator[dict[str, Any]]:
        if self._text is None:
            self._text, self._id = [], tool_calls.new_id("msg_")
            yield self._added(_text_item(self._id, None, "in_progress"))
            yield {"type": "response.content_part.added", **self._place(), "part": _part("")}
        self._text.append(text)
        yield {"type": "response.output_text.delta", **self._place(), "delta": text, "logprobs": []}

    def finished_segments(self) -> Iterator[dict[str, Any]]:
        """Calls, and what is shown as it was written."""
        calls = chat.calls_of(self.request, self.answer)
        for segment in self.answer.segments[self._told :]:
            self._told += 1
            if segment in calls:
                yield from self.close()
                yield from self._call(segment)
            elif segment.kind != "text":
                yield from self.text(tool_calls.as_text(segment))

    def close(self) -> Iterator[dict[str, Any]]:
        if self._text is None:
            return
        text, place = "".join(self._text), self._place()
        self._text = None
        yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
        yield {"type": "response.content_part.done", **place, "part": _part(text)}
        yield self._finished(_text_item(self._id, text))

    def _call(self, segment: Segment) -> Iterator[dict[str, Any]]:
        item_id, call_id, pieces = (
            tool_calls.new_id("fc_"),
            tool_calls.new_id("call_"),
            list(tool_calls.pieces(segment)),
        )
        place = {"item_id": item_id, "output_index": len(self.done)}
        yield self._added(_call_item(segment, item_id, call_id, "", "in_progress"))
        for piece in pieces:
            yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        arguments = "".join(pieces)
        name = {"name": segment.metadata, "arguments": arguments}
        yield {"type": "response.function_call_arguments.done", **place, **name}
        yield self._finished(_call_item(segment, item_id, call_id, arguments))

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": len(self.done), "content_index": 0}

    def _added(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"type": "response.output_item.added", "output_index": len(self.done), "item": item}

    def _finished(self, item: dict[str, Any]) -> dict[str, Any]:
        self.done.append(item)
        return {"type": "response.output_item.done", "output_index": len(self.done) - 1, "item": item}
