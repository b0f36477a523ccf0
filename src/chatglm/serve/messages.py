"""`POST /v1/messages`: answers in Anthropic's format."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from chatglm.agent.answer import Answer
from chatglm.chat.message import TextDelta, ToolCallDone
from chatglm.chat.parser import Segment
from chatglm.serve import chat, tool_calls
from chatglm.serve.errors import ApiError
from chatglm.serve.protocol.chat import ChatRequest
from chatglm.serve.service import Answers, Service
from chatglm.serve.stream import event

ROUTE = "/v1/messages"
_TYPES = {413: "request_too_large", 500: "api_error", 503: "overloaded_error", 504: "timeout_error"}


def error_body(error: ApiError) -> dict[str, Any]:
    """An error in Anthropic's form."""
    return {"type": "error", "error": {"type": _TYPES.get(error.status, error.type), "message": error.message}}


def error_event(error: ApiError) -> bytes:
    """An error in the midst of a stream."""
    return event(error_body(error), "error")


async def whole(service: Service, request: ChatRequest, answers: Answers) -> dict[str, Any]:
    """The body of a `message`."""
    async for index, events in answers.events():
        chat.end_after_first_call(request, answers, index, events)
    answer = answers.made[0]
    calls = chat.calls_of(request, answer)
    return _head(request, answer) | {
        "content": [_block(segment, segment in calls) for segment in answer.segments if segment.content],
        **_end(request, answer),
    }


def _head(request: ChatRequest, answer: Answer) -> dict[str, Any]:
    return {
        "id": tool_calls.new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": answer.prompt_tokens, "output_tokens": 0},
    }


def _end(request: ChatRequest, answer: Answer) -> dict[str, Any]:
    """Why it ended and what was used."""
    usage = chat.usage([answer])
    return {
        "stop_reason": _reason(request, answer),
        "stop_sequence": answer.stop_string,
        "usage": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
    }


def _reason(request: ChatRequest, answer: Answer) -> str:
    if chat.calls_of(request, answer):
        return "tool_use"
    if answer.finish_reason == "length":
        return "max_tokens"
    return "stop_sequence" if answer.stop_string is not None else "end_turn"


def _block(segment: Segment, called: bool) -> dict[str, Any]:
    if not called:
        return {"type": "text", "text": tool_calls.as_text(segment)}
    arguments = segment.call.arguments if segment.call is not None else {}
    return {"type": "tool_use", "id": tool_calls.new_id("toolu_"), "name": segment.metadata, "input": arguments}


async def chunks(request: ChatRequest, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The events of a streamed message."""
    answer, blocks = answers.made[0], _Blocks(request, answers.made[0])
    async with answers:
        yield event({"type": "message_start", "message": _head(request, answer)}, "message_start")
        async for index, events in answers.events():
            for item in events:
                if isinstance(item, TextDelta) and item.text:
                    for data in blocks.text(item.text):
                        yield event(data, data["type"])
                elif isinstance(item, ToolCallDone):
                    for data in blocks.finished_segments():
                        yield event(data, data["type"])
            chat.end_after_first_call(request, answers, index, events)
        for data in (*blocks.finished_segments(), *blocks.close()):
            yield event(data, data["type"])
        end = _end(request, answer)
        usage = end.pop("usage")
        yield event({"type": "message_delta", "delta": end, "usage": usage}, "message_delta")
        yield event({"type": "message_stop"}, "message_stop")


class _Blocks:
    """The content blocks of a stream: one is open at a time."""

    def __init__(self, request: ChatRequest, answer: Answer) -> None:
        self.request, self.answer = request, answer
        self._index, self._open, self._told = -1, False, 0

    def text(self, text: str) -> Iterator[dict[str, Any]]:
        if not self._open:
            yield from self._begin({"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": text})

    def finished_segments(self) -> Iterator[dict[str, Any]]:
        """Calls, and what is shown as it was written."""
        calls = chat.calls_of(self.request, self.answer)
        for segment in self.answer.segments[self._told :]:
            self._told += 1
            if segment in calls:
                yield from self.close()
                yield from self._begin(_block(segment, True) | {"input": {}})
                for piece in tool_calls.pieces(segment):
                    yield self._delta({"type": "input_json_delta", "partial_json": piece})
                yield from self.close()
            elif segment.kind != "text":
                yield from self.text(tool_calls.as_text(segment))

    def close(self) -> Iterator[dict[str, Any]]:
        if self._open:
            self._open = False
            yield {"type": "content_block_stop", "index": self._index}

    def _begin(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._index, self._open = self._index + 1, True
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}
