"""`POST /v1/completions`: texts continued, with echo and the log-probabilities of the prompt."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from typing import Any

from chatglm.agent.answer import Answer
from chatglm.chat.message import TextDelta
from chatglm.engine.request import TokenLogprobs
from chatglm.serve.errors import wrong
from chatglm.serve.logprobs import completion_logprobs
from chatglm.serve.protocol.completions import CompletionRequest
from chatglm.serve.service import Answers, Job, Service
from chatglm.serve.stream import DONE, event
from chatglm.serve.tool_calls import new_id


def jobs(service: Service, request: CompletionRequest) -> list[Job]:
    """A job for each choice of each prompt, those of a prompt beside each other.

    Raises:
        ApiError: what the request asks for cannot be done.
    """
    each = max(request.n, request.best_of or 1)
    service.check_counts(
        each * len(request.prompts), len(request.stops) + len(request.bad_words), len(request.logit_bias)
    )
    adapter = service.adapter_of(request.model)
    if request.echo and request.logprobs is not None:
        # Programs that measure the prompt count on a token behind it, whatever it is.
        request = request.model_copy(update={"ignore_eos": True})
    made = []
    for prompt in request.prompts:
        ids = service.ids_of(prompt)
        most = service.most_tokens(len(ids), request.max_tokens, field="prompt") if request.max_tokens else 0
        for index in range(each):
            params = request.params(
                temperature=service.config.temperature,
                top_p=service.config.top_p,
                max_tokens=most,
                seed_offset=index,
                stop=request.stops,
                logprobs=_logprobs(request, each),
                prompt_logprobs=(request.logprobs or 0) if request.echo else None,
                constraint=service.forms.of_response(request.response_format, request.structured_outputs, chat=False),
            )
            made.append(Job(ids, params, False, adapter, plain=True))
    return made


def _logprobs(request: CompletionRequest, each: int) -> int | None:
    """The best of several is found by its log-probability, asked for or not."""
    return 0 if request.logprobs is None and each > request.n else request.logprobs


async def whole(service: Service, request: CompletionRequest, answers: Answers) -> dict[str, Any]:
    """The body of a `text_completion`."""
    async for _ in answers.events():
        pass
    chosen = _best(request, answers.made)
    return {
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [_choice(service, request, answer, index) for index, answer in enumerate(chosen)],
        "usage": usage(request, answers.made),
    }


def _best(request: CompletionRequest, made: list[Answer]) -> list[Answer]:
    each = max(request.n, request.best_of or 1)
    if each == request.n:
        return made
    groups = [made[start : start + each] for start in range(0, len(made), each)]
    return [answer for group in groups for answer in sorted(group, key=_mean_logprob, reverse=True)[: request.n]]


def _mean_logprob(answer: Answer) -> float:
    values = [item.logprob for item in answer.logprobs]
    return math.fsum(values) / len(values) if values else -math.inf


def _choice(service: Service, request: CompletionRequest, answer: Answer, index: int) -> dict[str, Any]:
    echoed = service.text_of(answer.prompt_ids) if request.echo else ""
    return {
        "index": index,
        "text": echoed + text_of(answer),
        "logprobs": _told_logprobs(service, request, answer),
        "finish_reason": "length" if answer.finish_reason == "length" else "stop",
    }


def text_of(answer: Answer) -> str:
    """What was written, blanks and all."""
    return "".join(segment.raw for segment in answer.segments)


def _told_logprobs(service: Service, request: CompletionRequest, answer: Answer) -> dict[str, Any] | None:
    if request.logprobs is None:
        return None
    items: list[TokenLogprobs | None] = []
    ids: list[int] = []
    if request.echo:
        items += [None, *answer.prompt_logprobs]
        ids += answer.prompt_ids
    items += answer.logprobs
    ids += [item.token_id for item in answer.logprobs]
    return completion_logprobs(items, ids, service.texts)


def usage(request: CompletionRequest, made: list[Answer]) -> dict[str, Any]:
    """Tokens of the prompts, each counted once, and of everything that was written."""
    each = max(request.n, request.best_of or 1)
    prompt = sum(answer.prompt_tokens for answer in made[::each])
    written = sum(answer.request.num_output if answer.request is not None else 0 for answer in made)
    cached = sum(answer.request.num_cached if answer.request is not None else 0 for answer in made[::each])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


async def chunks(service: Service, request: CompletionRequest, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The events of a streamed completion."""
    head = {
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
    }
    more = {"usage": None} if request.stream_options is not None and request.stream_options.include_usage else {}

    def chunk(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return event(head | {"choices": [choice]} | more)

    logged = [0] * len(answers.made)
    async with answers:
        for index, answer in enumerate(answers.made):
            if request.echo:
                yield chunk(index, service.text_of(answer.prompt_ids))
        async for index, events in answers.events():
            answer = answers.made[index]
            text = "".join(item.text for item in events if isinstance(item, TextDelta))
            fresh, logged[index] = answer.logprobs[logged[index] :], len(answer.logprobs)
            told = None
            if request.logprobs is not None:
                told = completion_logprobs(fresh, [item.token_id for item in fresh], service.texts)
            if text:
                yield chunk(index, text, told)
            if answer.finished:
                yield chunk(index, "", reason="length" if answer.finish_reason == "length" else "stop")
        if more:
            yield event(head | {"choices": [], "usage": usage(request, answers.made)})
        yield event(DONE)


def check_echo(request: CompletionRequest) -> None:
    """Refuses what echo cannot do in a stream.

    Raises:
        ApiError: 400.
    """
    if request.stream and request.echo and request.logprobs is not None:
        raise wrong("echo", "echo with logprobs cannot be streamed; leave out stream")
