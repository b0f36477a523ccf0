"""`POST /v1/chat/completions`: from the request to jobs, and from answers to the OpenAI format."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from chatglm.agent.answer import Answer
from chatglm.chat.message import Event, TextDelta, ToolCallDone
from chatglm.chat.parser import Segment
from chatglm.engine.request import TokenLogprobs
from chatglm.serve import tool_calls
from chatglm.serve.logprobs import chat_logprobs
from chatglm.serve.protocol.chat import ChatRequest, FunctionTool
from chatglm.serve.service import Answers, Job, Service
from chatglm.serve.stream import DONE, event

_REASONS = {"stop": "stop", "length": "length"}


def jobs(service: Service, request: ChatRequest) -> list[Job]:
    """One job for each of the `n` answers.

    Raises:
        ApiError: what the request asks for cannot be done.
    """
    service.check_counts(request.n, len(request.stops) + len(request.bad_words), len(request.logit_bias))
    adapter = service.adapter_of(request.model)
    ids = prompt_ids(service, request)
    most = service.most_tokens(len(ids), request.most_tokens)
    names = {tool.name for tool in _offered(request)} or False
    made = []
    for index in range(request.n):
        params = request.params(
            temperature=service.config.temperature,
            top_p=service.config.top_p,
            max_tokens=most,
            seed_offset=index,
            stop=request.stops,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            constraint=_form(service, request),
        )
        made.append(Job(ids, params, names, adapter))
    return made


def prompt_ids(service: Service, request: ChatRequest) -> list[int]:
    """The prompt of the conversation with its tools.

    Raises:
        ApiError: see `Service.render`.
    """
    messages = [message.model_dump(exclude_none=True) for message in request.said]
    return service.render(messages, [tool.model_dump(exclude={"strict"}) for tool in _offered(request)])


def _offered(request: ChatRequest) -> list[FunctionTool]:
    return [] if request.choice == "none" else request.offered


def _form(service: Service, request: ChatRequest) -> Any:
    """What the answer is held to; None: nothing."""
    if request.choice == "required":
        return service.forms.of_call(request.offered, request.chosen_name)
    form = service.forms.of_response(request.response_format, request.structured_outputs, chat=True)
    offered = _offered(request)
    return service.forms.of_answer(offered) if form is None and any(tool.strict for tool in offered) else form


# whole answers


async def whole(service: Service, request: ChatRequest, answers: Answers) -> dict[str, Any]:
    """The body of a `chat.completion`."""
    async for index, events in answers.events():
        end_after_first_call(request, answers, index, events)
    return {
        "id": tool_calls.new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [_choice(service, request, answer, index) for index, answer in enumerate(answers.made)],
        "usage": usage(answers.made),
    }


def _choice(service: Service, request: ChatRequest, answer: Answer, index: int) -> dict[str, Any]:
    calls = calls_of(request, answer)
    texts = [tool_calls.as_text(segment) for segment in answer.segments if segment not in calls]
    content = "\n".join(texts) or (None if calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if calls and request.legacy:
        message["function_call"] = tool_calls.whole(calls[0], "")["function"]
    elif calls:
        message["tool_calls"] = [tool_calls.whole(call, tool_calls.new_id("call_")) for call in calls]
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(content_logprobs(answer, service.texts), service.texts) if request.logprobs else None,
        "finish_reason": _reason(request, answer, bool(calls)),
    }


def calls_of(request: ChatRequest, answer: Answer) -> list[Segment]:
    """The calls a client is told as such; one where it wants no more."""
    calls = [segment for segment in answer.calls() if segment.kind == "tool_call" and tool_calls.readable(segment)]
    return calls if request.parallel_tool_calls and not request.legacy else calls[:1]


def _reason(request: ChatRequest, answer: Answer, called: bool) -> str:
    if called:
        return "function_call" if request.legacy else "tool_calls"
    return _REASONS.get(answer.finish_reason or "", "stop")


def end_after_first_call(request: ChatRequest, answers: Answers, index: int, events: Sequence[Event]) -> None:
    """Where one call is wanted, what follows it is not written."""
    if request.parallel_tool_calls and not request.legacy:
        return
    if any(isinstance(item, ToolCallDone) for item in events):
        answers.end_one(index)


def usage(made: Sequence[Answer]) -> dict[str, Any]:
    """Tokens of the prompt, once, and of all answers."""
    prompt = made[0].prompt_tokens
    written = sum(answer.request.num_output if answer.request is not None else 0 for answer in made)
    cached = made[0].request.num_cached if made[0].request is not None else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def content_logprobs(answer: Answer, texts: Sequence[bytes]) -> list[TokenLogprobs]:
    """Those of the tokens that are text: without the empty first line that every answer begins with."""
    items = list(answer.logprobs)
    lead = b""
    for at, item in enumerate(items):
        lead += texts[item.token_id]
        if not lead.isspace():
            return items[at:]
    return []


# streams


async def chunks(service: Service, request: ChatRequest, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The events of a streamed answer: a role, what is written, why it ended, what was used, `[DONE]`."""
    stream = _Chunks(service, request, answers)
    async with answers:
        for index in range(len(answers.made)):
            yield stream.chunk(index, {"role": "assistant", "content": ""})
        async for index, events in answers.events():
            for item in events:
                for delta in stream.deltas(index, item):
                    yield stream.chunk(index, delta)
            end_after_first_call(request, answers, index, events)
            if answers.made[index].finished:
                for delta in stream.rest(index):
                    yield stream.chunk(index, delta)
                yield stream.chunk(index, {}, _reason(request, answers.made[index], stream.called[index] > 0))
        if request.wants_usage:
            yield event(stream.head | {"choices": [], "usage": usage(answers.made)})
        yield event(DONE)


class _Chunks:
    """What a stream has told so far."""

    def __init__(self, service: Service, request: ChatRequest, answers: Answers) -> None:
        self.request, self.answers, self.texts = request, answers, service.texts
        self.head = {
            "id": tool_calls.new_id("chatcmpl-"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model,
        }
        self.called = [0] * len(answers.made)
        self._told = [0] * len(answers.made)  # segments
        self._logged = [0] * len(answers.made)  # log-probabilities

    def chunk(self, index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": reason}
        if self.request.logprobs:
            choice["logprobs"] = self._new_logprobs(index) if "content" in delta and delta.get("content") else None
        more = {"usage": None} if self.request.wants_usage else {}
        return event(self.head | {"choices": [choice]} | more)

    def deltas(self, index: int, item: Event) -> list[dict[str, Any]]:
        """What an event adds."""
        if isinstance(item, TextDelta):
            return [{"content": item.text}] if item.text else []
        return self.rest(index) if isinstance(item, ToolCallDone) else []

    def rest(self, index: int) -> list[dict[str, Any]]:
        """What of the finished segments has not been told: calls, and what is shown as it was written."""
        answer, found = self.answers.made[index], []
        calls = calls_of(self.request, answer)
        for segment in answer.segments[self._told[index] :]:
            self._told[index] += 1
            if segment in calls:
                found += self._call(index, segment)
            elif segment.kind != "text":
                found.append({"content": tool_calls.as_text(segment)})
        return found

    def _call(self, index: int, segment: Segment) -> list[dict[str, Any]]:
        place = self.called[index]
        self.called[index] += 1
        name, pieces = segment.metadata, list(tool_calls.pieces(segment))
        if self.request.legacy:
            return [{"function_call": {"name": name, "arguments": "".join(pieces)}}] if place == 0 else []
        first = {"index": place, "id": tool_calls.new_id("call_"), "type": "function"}
        first["function"] = {"name": name, "arguments": ""}
        rest = [{"tool_calls": [{"index": place, "function": {"arguments": piece}}]} for piece in pieces]
        return [{"tool_calls": [first]}, *rest]

    def _new_logprobs(self, index: int) -> dict[str, Any]:
        items = content_logprobs(self.answers.made[index], self.texts)
        fresh, self._logged[index] = items[self._logged[index] :], len(items)
        return chat_logprobs(fresh, self.texts)
