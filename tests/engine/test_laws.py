"""The engine's laws: however requests are cut, batched, cached, thrown out or guessed, the tokens are the same."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_data import golden_file

from chatglm.engine.adapters import LowRank
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.engine.results import Completion
from chatglm.errors import RequestError
from chatglm.model.network import ChatGLMForConditionalGeneration

FOLDER = golden_file("generation")
CASES: list[dict[str, Any]] = json.loads((FOLDER / "cases.json").read_text())
SUPPORTED = {"do_sample", "max_new_tokens", "max_length", "eos_token_id", "repetition_penalty", "bad_words_ids",
             "min_new_tokens"}  # fmt: skip
GREEDY = [case for case in CASES if set(case["gen_kwargs"]) <= SUPPORTED]


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    return ChatGLMForConditionalGeneration.from_pretrained(FOLDER / "model").eval()


def prompts(count: int = 6, shortest: int = 5, longest: int = 60) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    lengths = torch.randint(shortest, longest, (count,), generator=generator).tolist()
    return [torch.randint(3, 1490, (length,), generator=generator).tolist() for length in lengths]


def ids(completions: list[Completion]) -> list[tuple[int, ...]]:
    assert all(completion.error is None for completion in completions)
    return [completion.token_ids for completion in completions]


def params_of(case: dict[str, Any], length: int) -> SamplingParams:
    options = case["gen_kwargs"]
    eos = options.get("eos_token_id", [2])
    return SamplingParams(
        temperature=0,
        max_tokens=options.get("max_new_tokens") or options["max_length"] - length,
        min_tokens=options.get("min_new_tokens", 0),
        stop_token_ids=eos if isinstance(eos, list) else [eos],
        repetition_penalty=options.get("repetition_penalty", 1.0),
        bad_words_ids=options.get("bad_words_ids", ()),
    )


# That the readable form is the same on every shape is seen in test_attention.py, and below.
@pytest.mark.parametrize("attention", [pytest.param("reference", marks=pytest.mark.slow), "sdpa"])
@pytest.mark.parametrize("case", GREEDY, ids=lambda case: case["name"])
def test_paged_equals_the_official_code(model: Any, case: dict[str, Any], attention: str) -> None:
    engine = Engine(model, EngineConfig(attention=attention))
    for row, expected in zip(case["input_ids"], case["expected"]["sequences"], strict=True):
        prompt = [token for token in row if token != 0]
        request = engine.submit(prompt, params_of(case, len(row)))
        answer = engine.wait(request)
        written = [*answer.token_ids, *([answer.stop_id] if answer.stop_id is not None else [])]
        recorded = expected[len(row) :]
        assert written == recorded[: len(written)]
        assert not any(recorded[len(written) :])  # nothing but padding after it
    engine.check_integrity()


SETTINGS = [
    SamplingParams(temperature=0, max_tokens=24),
    SamplingParams(seed=5, max_tokens=24),
    SamplingParams(seed=6, temperature=0.8, top_p=0.8, max_tokens=24),
    SamplingParams(seed=7, top_k=20, min_p=0.01, repetition_penalty=1.2, frequency_penalty=0.5, max_tokens=24),
]


@pytest.fixture(scope="module")
def expected(model: Any) -> dict[int, list[tuple[int, ...]]]:
    """Every prompt alone, in a fresh engine without a prefix cache, whole prompt in one step."""
    result = {}
    for index, params in enumerate(SETTINGS):
        engine = Engine(model, EngineConfig(prefix_cache=False, max_batch_tokens=4096))
        result[index] = [engine.generate([prompt], params)[0].token_ids for prompt in prompts()]
    return result


CONFIGS = {
    "batched": EngineConfig(),
    "reference": EngineConfig(attention="reference"),
    "chunked": EngineConfig(max_batch_tokens=7),
    "blocks of 1": EngineConfig(block_size=1),
    "no prefix cache": EngineConfig(prefix_cache=False),
    "one at a time": EngineConfig(max_running=1),
}


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
@pytest.mark.parametrize("name", CONFIGS)
def test_batching_and_chunking_change_nothing(model: Any, expected: Any, name: str, setting: int) -> None:
    engine = Engine(model, CONFIGS[name])
    assert ids(engine.generate(prompts(), SETTINGS[setting])) == expected[setting]
    engine.check_integrity()
    assert engine.stats().cache_tokens_free == engine.stats().cache_tokens


def pool(model: Any, num_tokens: int, block_size: int = 4) -> int:
    """kv_memory for a pool of so many tokens."""
    config = model.config
    per_token = 2 * config.num_layers * config.num_key_value_heads * config.kv_channels * model.dtype.itemsize
    return per_token * num_tokens // block_size * block_size


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_preemption_changes_nothing(model: Any, expected: Any, setting: int) -> None:
    engine = Engine(model, EngineConfig(block_size=4, kv_memory=pool(model, 128)))
    assert ids(engine.generate(prompts(), SETTINGS[setting])) == expected[setting]
    assert engine.stats().preemptions > 0
    engine.check_integrity()


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_a_prefix_hit_changes_nothing(model: Any, expected: Any, setting: int) -> None:
    engine = Engine(model, EngineConfig(block_size=4))
    for _ in range(2):
        assert ids(engine.generate(prompts(), SETTINGS[setting])) == expected[setting]
    assert engine.stats().hit_rate > 0.4


@pytest.mark.parametrize("draft", ["lookup", "model"])
@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_speculation_changes_nothing(model: Any, expected: Any, setting: int, draft: Any) -> None:
    engine = Engine(model, EngineConfig(block_size=4), draft_model=model)
    assert ids(engine.generate(prompts(), replace(SETTINGS[setting], draft=draft))) == expected[setting]
    stats = engine.stats()
    if draft == "model":  # the same model guesses everything right
        assert stats.drafts_accepted == stats.drafts_proposed > 0
        assert stats.steps < 24
    engine.check_integrity()


def test_a_second_turn_runs_only_what_is_new(model: Any) -> None:
    engine, prompt = Engine(model, EngineConfig(block_size=4)), prompts()[0]
    params = SamplingParams(temperature=0, max_tokens=12)
    answer = engine.generate([prompt], params)[0]
    request = engine.submit([*prompt, *answer.token_ids, 5, 6, 7], params)
    engine.wait(request)
    assert len(request.prompt_ids) - request.num_cached <= 3 + 1 + 4  # new tokens, the last one written, half a block


QKV = "transformer.encoder.layers.{}.self_attention.query_key_value"


def adapter(model: Any, seed: int) -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(model.config.num_layers):
        module = model.get_submodule(QKV.format(layer))
        down = torch.randn(4, module.in_features, generator=generator)
        weights[QKV.format(layer)] = LowRank(down, torch.randn(module.out_features, 4, generator=generator), 0.1)
    output_layer = model.get_output_embeddings()  # sees only the positions where a token is chosen
    down, up = (torch.randn(size, generator=generator) for size in
                ((2, output_layer.in_features), (output_layer.out_features, 2)))  # fmt: skip
    weights["transformer.output_layer"] = LowRank(down, up, 0.05)
    return weights


def merged(model: Any, weights: dict[str, LowRank]) -> Any:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for path, update in weights.items():
            model.get_submodule(path).weight += update.scaling * update.up @ update.down
    return model


def test_adapters_in_one_batch_equal_merged_models(model: Any) -> None:
    params = SamplingParams(temperature=0, max_tokens=16)
    adapters = {"a": adapter(model, 1), "b": adapter(model, 2)}
    engine = Engine(model, EngineConfig(block_size=4))
    for name, weights in adapters.items():
        engine.add_adapter(name, weights)
    for _ in range(2):  # the second time from the prefix cache, which must keep them apart
        chosen = ["a", None, "b", "a", "b", None]
        requests = [engine.submit(prompt, params, adapter=name) for prompt, name in zip(prompts(), chosen, strict=True)]
        requests += [engine.submit(prompts()[0], params, adapter=name) for name in ("b", None)]
        answers = [engine.wait(request).token_ids for request in requests]
        assert len({answers[0], answers[6], answers[7]}) == 3, "the adapters change nothing"
        for request, answer in zip(requests, answers, strict=True):
            alone = model if request.adapter is None else merged(model, adapters[request.adapter])
            assert answer == Engine(alone).generate([request.prompt_ids], params)[0].token_ids
    engine.remove_adapter("a")
    engine.check_integrity()
    with pytest.raises(RequestError, match="no adapter is named 'a'; loaded are: b"):
        engine.submit([1], params, adapter="a")
    engine.remove_adapter("b")
    assert not model.get_submodule(QKV.format(0))._forward_hooks


def test_adapters_that_do_not_fit_are_refused(model: Any) -> None:
    engine, weights = Engine(model), adapter(model, 1)
    path = QKV.format(0)
    with pytest.raises(RequestError, match="does not have"):
        engine.add_adapter("x", {"transformer.elsewhere": weights[path]})
    with pytest.raises(RequestError, match="shapes"):
        engine.add_adapter("x", {path: LowRank(weights[path].up, weights[path].down, 1.0)})
    engine.add_adapter("x", weights)
    with pytest.raises(RequestError, match="already"):
        engine.add_adapter("x", weights)
    engine.submit([1, 2], SamplingParams(max_tokens=2), adapter="x")
    with pytest.raises(RequestError, match="still use"):
        engine.remove_adapter("x")


def test_n_answers_share_their_prompt(model: Any) -> None:
    engine = Engine(model, EngineConfig(block_size=4))
    prompt = prompts(1, 40, 41)[0]
    requests = engine.submit_many(prompt, SamplingParams(seed=1, max_tokens=8), n=4)
    answers = [engine.wait(request).token_ids for request in requests]
    alone = [
        Engine(model).generate([prompt], SamplingParams(seed=1 + index, max_tokens=8))[0].token_ids
        for index in range(4)
    ]
    assert answers == alone
    assert [request.num_cached for request in requests] == [0, 36, 36, 36]


def test_scores_are_those_of_the_network(model: Any) -> None:
    prompt, continuation = prompts()[0], prompts()[1]
    logits = model(torch.tensor([[*prompt, *continuation]])).logits[0]
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    expected = logprobs[range(len(continuation)), continuation].detach()
    for size in (512, 7):
        engine = Engine(model, EngineConfig(block_size=4, max_batch_tokens=size))
        for _ in range(2):  # the second time the prompt is in the cache
            score = engine.score(prompt, continuation)
            torch.testing.assert_close(torch.tensor(score.token_logprobs), expected, atol=1e-4, rtol=1e-4)
            assert score.logprob == pytest.approx(float(expected.sum()), abs=1e-3)
            assert not score.greedy
        greedy = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=5))[0].token_ids
        assert engine.score(prompt, greedy).greedy
        engine.check_integrity()


def test_logprobs_belong_to_the_tokens(model: Any) -> None:
    prompt = prompts()[0]
    answer = Engine(model).generate([prompt], SamplingParams(temperature=0, max_tokens=4, logprobs=3))[0]
    score = Engine(model).score(prompt, answer.token_ids)
    assert [item.token_id for item in answer.logprobs] == list(answer.token_ids)
    assert [item.logprob for item in answer.logprobs] == pytest.approx(list(score.token_logprobs), abs=1e-4)
    assert all(item.top[0][0] == item.token_id and len(item.top) == 3 for item in answer.logprobs)


def test_int8_cache_stays_close(model: Any) -> None:
    prompt, continuation = prompts()[0], prompts()[1]
    exact = Engine(model).score(prompt, continuation).token_logprobs
    close = Engine(model, EngineConfig(kv_dtype="int8")).score(prompt, continuation).token_logprobs
    assert max(abs(a - b) for a, b in zip(exact, close, strict=True)) < 0.15


def test_ids_without_text_are_never_chosen(model: Any) -> None:
    engine = Engine(model, EngineConfig(num_tokens=700))
    for completion in engine.generate(prompts(), SamplingParams(seed=3, temperature=2.0, max_tokens=20)):
        assert max(completion.token_ids) < 700


def test_requests_that_cannot_be_carried_out_are_refused_with_numbers(model: Any) -> None:
    engine = Engine(model, EngineConfig(block_size=4, kv_memory=pool(model, 64)))
    context = model.config.seq_length
    for prompt, params, message in [
        ([], SamplingParams(), "no tokens"),
        ([1] * context, SamplingParams(), f"{context} tokens"),
        ([1] * 60, SamplingParams(max_tokens=10), "need 70 tokens of cache and there are 64"),
        ([1, 999_999], SamplingParams(), "999999 is outside"),
        ([1], SamplingParams(stop=["x"]), "decoder"),
        ([1], SamplingParams(draft="model"), "draft model"),
    ]:
        with pytest.raises(RequestError, match=message):
            engine.submit(prompt, params)
    assert not engine.scheduler.has_work


def fills_with_nan(output_ids: Any, logits: torch.Tensor) -> None:
    if len(output_ids) == 3:
        logits.fill_(torch.nan)


def fills_with_infinity(output_ids: Any, logits: torch.Tensor) -> None:
    if len(output_ids) == 3:
        logits[7] = torch.inf


def bans_all(output_ids: Any, logits: torch.Tensor) -> None:
    if len(output_ids) == 3:
        logits.fill_(-torch.inf)


def fails(output_ids: Any, logits: torch.Tensor) -> None:
    if len(output_ids) == 3:
        raise KeyError("no such state")


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (fills_with_nan, "NaN or infinity"),
        (fills_with_infinity, "NaN or infinity"),
        (bans_all, "banned"),
        (fails, "no such state"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_row_ends_alone(model: Any, hook: Any, message: str, temperature: float) -> None:
    """NaN logits end the request they belong to; the official code would answer token 5 for the whole batch."""
    engine = Engine(model)
    params = SamplingParams(temperature=temperature, seed=1, max_tokens=8)
    good, bad = engine.submit(prompts()[0], params), engine.submit(prompts()[1], replace(params, hook=hook))
    answers = engine.wait(good), engine.wait(bad)
    assert answers[0].token_ids == engine.generate([prompts()[0]], params)[0].token_ids
    assert answers[0].finish_reason == "length"
    assert answers[1].finish_reason == "error"
    assert message in (answers[1].error or "")
    assert len(answers[1].token_ids) == 3
    engine.check_integrity()


def test_abort_keeps_what_was_written(model: Any) -> None:
    engine = Engine(model)
    request = engine.submit(prompts()[0], SamplingParams(temperature=0, max_tokens=50))
    for _ in engine.stream(request):
        if request.num_output == 5:
            break
    assert request.finished
    assert request.finish_reason == "abort"
    assert len(request.output_ids) == 5
    engine.check_integrity()
