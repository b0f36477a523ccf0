"""vLLM behind our interface, by contract: a stand-in has vLLM's calls and outputs, and this package's engine inside."""

import asyncio
import inspect
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from chatglm.engine.request import SamplingParams
from chatglm.engine.vllm_engine import VllmEngine
from chatglm.errors import GenerationError, RequestError
from chatglm.loading import load
from chatglm.model.stream_decoder import StreamDecoder
from chatglm.own_engine import engine_for

PROMPT = "What is the capital of France?"


class StandIn:
    """`AsyncLLM` as far as it is used: told only what is new, the stop token among the ids."""

    def __init__(self, engine):
        self.engine, self.errored, self.aborted = engine, False, []
        asyncio.get_running_loop()  # vLLM wants one as well

    async def generate(self, prompt, sampling_params, request_id):
        given = dict(sampling_params)
        form = given.pop("structured_outputs", None)
        given.pop("detokenize")
        params = SamplingParams(**given, constraint=form)
        request = self.engine.submit(prompt["prompt_token_ids"], params)
        told: list[Any] = []
        try:
            async with aclosing(self.engine.astream(request)) as outputs:
                async for output in outputs:
                    told += output.prompt_logprobs
                    ids = list(output.token_ids)
                    if output.finish_reason == "stop" and request.stop_id is not None:
                        ids.append(request.stop_id)
                    if not ids and output.finish_reason is None:
                        continue
                    yield RequestOutput(
                        outputs=[Completion(ids, [logprobs(item) for item in output.logprobs], output.finish_reason)],
                        prompt_logprobs=[None, *map(logprobs, told)] if told else None,
                        num_cached_tokens=request.num_cached,
                    )
                    told = []
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise

    def shutdown(self):
        self.engine.close()


@dataclass
class Completion:
    token_ids: list[int]
    logprobs: Any
    finish_reason: str | None
    stop_reason: int | None = None


@dataclass
class RequestOutput:
    outputs: list[Completion]
    prompt_logprobs: Any = None
    num_cached_tokens: int | None = None
    finished: bool = field(default=False)


def logprobs(item):
    """As vLLM tells them: the chosen token, and the likeliest with their ranks."""
    found = {key: SimpleNamespace(logprob=value, rank=rank) for rank, (key, value) in enumerate(item.top, 1)}
    found.setdefault(item.token_id, SimpleNamespace(logprob=item.logprob, rank=len(item.top) + 1))
    return found


@pytest.fixture(scope="module")
def both():
    """The adapter over the stand-in, and the same engine without."""
    model, tokenizer = load()
    own = engine_for(model, tokenizer, max_running=4).start()
    adapter = VllmEngine(
        lambda: StandIn(own),
        new_params=lambda **given: given,
        new_grammar=lambda lark: forms(tokenizer, lark),
        context=own.context,
        stop_token_ids=tokenizer.stop_ids,
        new_decoder=lambda: StreamDecoder(tokenizer),
    )
    yield adapter, own, tokenizer
    adapter.close()
    adapter.close()  # once more does no harm


def forms(tokenizer, lark):
    from chatglm.serve.structured import Forms

    return Forms(tokenizer, max_bytes=10_000, max_depth=9)._lark(lark, "grammar")


def prompt(tokenizer, text=PROMPT):
    return tokenizer.render([{"role": "user", "content": text}]).ids


@pytest.mark.parametrize(
    "options",
    [
        {}, {"max_tokens": 5}, {"max_tokens": 30, "ignore_eos": True}, {"stop": ("a", "的")}, {"logprobs": 3},
        {"temperature": 0.8, "top_p": 0.8, "seed": 7, "top_k": 20, "repetition_penalty": 1.1, "min_tokens": 3},
        {"prompt_logprobs": 2, "max_tokens": 3}, {"logit_bias": {500: 2.0}, "bad_words": ("Paris",)},
    ],
)  # fmt: skip
def test_answers_are_those_of_the_engine_behind_it(both, options):
    adapter, own, tokenizer = both
    params = SamplingParams(**{"temperature": 0, "max_tokens": 60, **options})
    found, right = (engine.wait(engine.submit(prompt(tokenizer), params)) for engine in (adapter, own))
    assert found == right


def test_a_prompt_is_measured_without_an_answer(both):
    adapter, own, tokenizer = both
    params = SamplingParams(prompt_logprobs=0, max_tokens=0)
    found, right = (engine.wait(engine.submit(prompt(tokenizer), params)) for engine in (adapter, own))
    assert [item.logprob for item in found.prompt_logprobs] == [item.logprob for item in right.prompt_logprobs]
    assert (found.token_ids, found.finish_reason) == ((), "length")


def test_a_grammar_goes_over_as_a_grammar(both):
    adapter, _, tokenizer = both
    form = forms(tokenizer, 'start: " "? "\\n"? " "? ("yes" | "no")')
    answer = adapter.wait(adapter.submit(prompt(tokenizer), SamplingParams(constraint=form, max_tokens=20)))
    assert answer.text.strip() in ("yes", "no")


def test_tasks_read_together_and_leaving_aborts(both):
    adapter, own, tokenizer = both

    async def read(number):
        params = SamplingParams(temperature=0, max_tokens=20 + number, ignore_eos=True)
        return [output async for output in adapter.astream(adapter.submit(prompt(tokenizer), params))]

    async def leave():
        request = adapter.submit(prompt(tokenizer), SamplingParams(max_tokens=1500, ignore_eos=True))
        async with aclosing(adapter.astream(request)) as outputs:
            await anext(outputs)
        return request

    async def use():
        left, *found = await asyncio.gather(leave(), *map(read, range(3)))
        while not left.finished:
            await asyncio.sleep(0.01)
        return left, found

    left, found = asyncio.run(use())
    assert left.finish_reason == "abort"
    for number, outputs in enumerate(found):
        assert sum(len(output.token_ids) for output in outputs) == 20 + number
        assert outputs[-1].finish_reason == "length"
    assert adapter.stats().finished >= 4


@pytest.mark.parametrize(
    ("given", "options", "word"),
    [
        ({}, {"adapter": "x"}, "adapter"), ({}, {"pool": "mean"}, "pool"), ({"hook": print}, {}, "hook"),
        ({"draft": "lookup"}, {}, "draft"), ({"constraint": lambda: None}, {}, "constraint"),
        ({"max_tokens": 10**6}, {}, "context"), ({"bad_words_ids": [[1]]}, {}, "bad_words_ids"),
    ],
)  # fmt: skip
def test_what_vllm_cannot_do_is_refused_by_name(both, given, options, word):
    adapter, _, tokenizer = both
    with pytest.raises(RequestError, match=word):
        adapter.submit(prompt(tokenizer), SamplingParams(**given), **options)


def test_a_failure_of_vllm_is_the_requests_and_its_death_is_told(both):
    adapter, _, tokenizer = both
    broken = adapter.submit([10**6], SamplingParams(max_tokens=1))  # what the engine behind it refuses
    assert adapter.wait(broken).finish_reason == "error"
    assert adapter.wait(adapter.submit(prompt(tokenizer), SamplingParams(max_tokens=1))).finish_reason == "length"
    adapter.llm.errored = True
    try:
        with pytest.raises(GenerationError, match="died"):
            adapter.submit(prompt(tokenizer))
    finally:
        adapter.llm.errored = False


def test_whoever_leaves_at_once_is_told_of_the_end(both):
    adapter, _, tokenizer = both
    left = []
    for _ in range(20):  # some before vLLM was asked at all, some after
        left.append(adapter.submit(prompt(tokenizer), SamplingParams(max_tokens=1500, ignore_eos=True)))
        adapter.abort(left[-1])
    assert {adapter.wait(request).finish_reason for request in left} == {"abort"}


def test_closing_ends_what_has_not_begun():
    class Silent(StandIn):
        async def generate(self, *_):
            await asyncio.Event().wait()
            yield

        def shutdown(self):
            pass

    adapter = VllmEngine(lambda: Silent(None), new_params=dict, new_grammar=str, context=100)
    requests = [adapter.submit([1], SamplingParams(max_tokens=5)) for _ in range(5)]
    adapter.close()
    assert [request.finish_reason for request in requests] == ["abort"] * 5


def test_the_server_answers_through_it(both):
    from httpx2 import post
    from serve.app_in_process import answering

    adapter, own, tokenizer = both

    body = {"model": "scripted", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0}
    texts = []
    for engine in (adapter, own):
        with answering(engine, tokenizer) as (url, _):
            texts.append(post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]["message"])
    assert texts[0] == texts[1]


def test_the_real_package_has_what_the_stand_in_has():
    async_llm = pytest.importorskip("vllm.v1.engine.async_llm", reason="vllm is for machines with GPUs").AsyncLLM
    assert {"prompt", "sampling_params", "request_id"} <= set(inspect.signature(async_llm.generate).parameters)
    assert inspect.isasyncgenfunction(async_llm.generate)
    assert {"errored", "shutdown", "from_engine_args"} <= set(dir(async_llm))
