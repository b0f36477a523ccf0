"""Likelihoods and embeddings are requests like any other: batched, cut, preempted, found in the cache, aborted."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from chatglm import native
from chatglm.engine.adapters import LowRank
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.errors import GenerationError, RequestError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.fused import fuse
from chatglm.quant.model import quantize_model

PROMPTS = [[(7 * index + place * place) % 96 for place in range(9 + 5 * index)] for index in range(5)]
ECHO = SamplingParams(temperature=0, max_tokens=4, prompt_logprobs=3, logprobs=2)
SIZES = [{}, {"max_batch_tokens": 7}, {"max_batch_tokens": 16, "prefix_cache": False}]


def network() -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=2, hidden_size=64, ffn_hidden_size=96, kv_channels=16, num_attention_heads=4, padded_vocab_size=96,
        multi_query_attention=True, multi_query_group_num=2, seq_length=128,
    )  # fmt: skip
    return ChatGLMForConditionalGeneration(config).eval()


@pytest.fixture(scope="module", params=["modules", "fused"])
def model(request: Any) -> ChatGLMForConditionalGeneration:
    made = network()
    if request.param == "fused":
        if not native.available():
            pytest.skip(native.why_not())
        quantize_model(made, "int8")
        assert fuse(made)
    return made


def states_of(model: Any, ids: list[int]) -> torch.Tensor:
    """[tokens, hidden] after the final norm, the plain way."""
    with torch.inference_mode():
        states: torch.Tensor = model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    return states


def likelihoods_of(model: Any, ids: list[int]) -> torch.Tensor:
    """[tokens - 1, vocab], the plain way."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits.float().log_softmax(-1)[:-1]


def engine_of(model: Any, **config: Any) -> Engine:
    return Engine(model, EngineConfig(**{"block_size": 4, **config}))


@pytest.mark.parametrize("config", SIZES, ids=str)
def test_the_prompts_likelihoods_are_those_of_the_network(model: Any, config: Any) -> None:
    """Also where the prompt lies in the cache already: what is wanted is computed, not found."""
    engine = engine_of(model, **config)
    for _ in range(2):
        requests = [engine.submit(prompt, ECHO) for prompt in PROMPTS]
        for prompt, request in zip(PROMPTS, requests, strict=True):
            answer = engine.wait(request)
            expected = likelihoods_of(model, prompt)
            assert [item.token_id for item in answer.prompt_logprobs] == prompt[1:]
            found = torch.tensor([item.logprob for item in answer.prompt_logprobs])
            torch.testing.assert_close(found, expected[range(len(prompt) - 1), prompt[1:]], atol=2e-2, rtol=1e-3)
            for item, row in zip(answer.prompt_logprobs, expected, strict=True):
                assert [value for _, value in item.top] == pytest.approx(row.topk(3).values.tolist(), abs=2e-2)
            plain = engine.generate([prompt], replace(ECHO, prompt_logprobs=None))[0]
            assert (answer.token_ids, answer.finish_reason) == (plain.token_ids, "length")
    engine.check_integrity()


@pytest.mark.parametrize("config", SIZES, ids=str)
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_embeddings_are_states_of_the_network(model: Any, config: Any, pool: Any) -> None:
    engine = engine_of(model, **config)
    for _ in range(2):
        beside = engine.submit(PROMPTS[0], SamplingParams(temperature=0, max_tokens=8))
        for prompt, vector in zip(PROMPTS, engine.embed(PROMPTS, pool), strict=True):
            states = states_of(model, prompt)
            expected = states[-1] if pool == "last" else states.mean(dim=0)
            torch.testing.assert_close(torch.tensor(vector), expected, atol=5e-2, rtol=1e-2)
        engine.wait(beside)
        assert engine.wait(engine.submit(PROMPTS[0], SamplingParams(max_tokens=1, ignore_eos=True))).embedding is None
    engine.check_integrity()


def test_many_scores_are_each_ones_own(model: Any) -> None:
    pairs = [(PROMPTS[3], PROMPTS[index % 5][: 1 + index % 7]) for index in range(20)]
    pairs += [(PROMPTS[2], [5]), (PROMPTS[3][:-1], PROMPTS[3][-1:])]
    engine = engine_of(model, max_batch_tokens=32)
    together = engine.score_many(pairs)
    steps = engine.stats().steps
    assert steps < len(pairs)
    assert engine.stats().prefix_tokens_hit >= 19 * (len(PROMPTS[3]) // 4 * 4 - 4), "their prompt is computed once"
    for pair, score in zip(pairs, together, strict=True):
        alone = engine_of(model, prefix_cache=False).score(*pair)
        assert score.token_logprobs == pytest.approx(alone.token_logprobs, abs=2e-3)
        assert score.greedy == alone.greedy
        assert len(score.token_logprobs) == len(pair[1])
    engine.check_integrity()


def test_a_prompt_that_gave_way_is_judged_once(model: Any) -> None:
    """Preempted in the middle, it goes on where it was; what was told is not told again."""
    engine = engine_of(model, kv_memory=14 * 4 * 2 * 2 * 2 * 16 * 4, max_batch_tokens=8, max_prompt_tokens=1)
    first = engine.submit(PROMPTS[0], SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))
    judged = engine.submit(PROMPTS[4], replace(ECHO, max_tokens=0))
    vector = engine.submit(PROMPTS[4], pool="mean")
    answers = [engine.wait(request) for request in (judged, vector, first)]
    assert judged.num_preemptions + vector.num_preemptions > 0
    expected = likelihoods_of(model, PROMPTS[4])[range(len(PROMPTS[4]) - 1), PROMPTS[4][1:]]
    found = torch.tensor([item.logprob for item in answers[0].prompt_logprobs])
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=1e-3)
    torch.testing.assert_close(
        torch.tensor(answers[1].embedding), states_of(model, PROMPTS[4]).mean(dim=0), atol=5e-2, rtol=1e-2
    )


def test_an_interrupted_step_is_judged_once(model: Any) -> None:
    engine = engine_of(model, max_batch_tokens=8)
    request, vector = engine.submit(PROMPTS[3], replace(ECHO, max_tokens=0)), engine.submit(PROMPTS[2], pool="mean")
    commit, calls = engine.ledger.commit, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) in (2, 5):
            raise KeyboardInterrupt
        return commit(*arguments)

    engine.ledger.commit = interrupted  # type: ignore[method-assign]
    while not (request.finished and vector.finished):
        try:
            engine.step()
        except KeyboardInterrupt:
            engine.check_integrity()
    assert len(calls) > 5
    assert [item.token_id for item in engine.wait(request).prompt_logprobs] == PROMPTS[3][1:]
    expected = states_of(model, PROMPTS[2]).mean(dim=0)
    torch.testing.assert_close(torch.tensor(engine.wait(vector).embedding), expected, atol=5e-2, rtol=1e-2)


def test_an_adapter_changes_scores_and_embeddings_as_it_does_the_network() -> None:
    """One of the layers, one of the output."""
    base = network()
    paths = ["transformer.encoder.layers.0.mlp.dense_h_to_4h", "transformer.output_layer"]
    updates, merged = {}, copy.deepcopy(base)
    for path in paths:
        module: Any = base.get_submodule(path)
        update = LowRank(torch.randn(2, module.in_features), torch.randn(module.out_features, 2), 0.05)
        updates[path] = update
        with torch.no_grad():
            merged.get_submodule(path).weight += update.up @ update.down * update.scaling  # type: ignore[operator]
    engine, plain = engine_of(base), engine_of(merged)
    engine.add_adapter("x", updates)
    beside = engine.submit(PROMPTS[1], ECHO)
    found = engine.score_many([(PROMPTS[0], PROMPTS[2]), (PROMPTS[3], [1])], adapter="x")
    expected = plain.score_many([(PROMPTS[0], PROMPTS[2]), (PROMPTS[3], [1])])
    for one, other in zip(found, expected, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-4)
    assert engine.embed(PROMPTS[:1], adapter="x")[0] == pytest.approx(plain.embed(PROMPTS[:1])[0], abs=1e-4)
    assert engine.wait(beside).prompt_logprobs == Engine(network()).generate([PROMPTS[1]], ECHO)[0].prompt_logprobs


def test_what_is_wanted_of_a_prompt_can_be_aborted(model: Any) -> None:
    engine = engine_of(model, max_batch_tokens=8)
    request, vector = engine.submit(PROMPTS[4], ECHO), engine.submit(PROMPTS[4], pool="mean")
    engine.step()
    for one in (request, vector):
        engine.abort(one)
        assert engine.wait(one).finish_reason == "abort"
    assert 0 < len(engine.wait(engine.submit(PROMPTS[4], ECHO)).prompt_logprobs) == len(PROMPTS[4]) - 1
    engine.check_integrity()


def test_nan_ends_whoever_it_concerns(model: Any) -> None:
    handle = model.transformer.output_layer.register_forward_hook(lambda module, inputs, output: output * torch.nan)
    try:
        engine = engine_of(model)
        answer = engine.wait(engine.submit([1, 2, 3], replace(ECHO, max_tokens=0)))
        assert answer.finish_reason == "error"
        assert "NaN" in (answer.error or "")
        with pytest.raises(GenerationError, match="NaN"):
            engine.score_many([([1], [2])])
        assert len(engine.embed([[1, 2]])[0]) == 64, "the head has no part in it"
    finally:
        handle.remove()


def test_what_means_nothing_is_refused(model: Any) -> None:
    engine = engine_of(model)
    for call, message in [
        (lambda: engine.submit([1, 2], pool="max"), 'pool is \'max\'; it must be "last" or "mean"'),  # type: ignore[arg-type]
        (lambda: engine.submit([1, 2], ECHO, pool="last"), "without prompt_logprobs"),
        (lambda: engine.embed([[1], []]), "no tokens"),
        (lambda: engine.score_many([([1], [2]), ([], [2])]), "prompt has no tokens"),
        (lambda: engine.score_many([([1], [2]), ([1], [])]), "continuation has no tokens"),
        (lambda: engine.score([1], [2] * 128), "129 tokens and the model's context is 128"),
        (lambda: replace(ECHO, prompt_logprobs=21), "prompt_logprobs is 21"),
        (lambda: SamplingParams(max_tokens=0), "max_tokens is 0"),
    ]:
        with pytest.raises(RequestError, match=message):
            call()
    assert not engine.scheduler.has_work
    assert len(engine.score([1], [2] * 127).token_logprobs) == 127, "all of the context"
