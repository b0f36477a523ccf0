"""Steps with fixed shapes, and steps begun before the last one's tokens were read: the same answers."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from constraints import Counting

from chatglm.engine import runner as runner_module
from chatglm.engine import static
from chatglm.engine.cache import KVCache, PagedBatch
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import Request, SamplingParams
from chatglm.engine.runner import ModelRunner
from chatglm.engine.sampling import Sampler
from chatglm.engine.static import padded_sizes
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.model import quantize_empty_model
from chatglm.quant.scheme import QuantScheme

BYTES_PER_TOKEN = 2 * 2 * 2 * 4 * 4


def network(**overrides: Any) -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    shape = {
        "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 16, "kv_channels": 4, "num_attention_heads": 4,
        "padded_vocab_size": 32, "multi_query_attention": True, "multi_query_group_num": 2, "seq_length": 64,
        "eos_token_id": None,
    }  # fmt: skip
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**(shape | overrides))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" not in name:
                parameter.normal_(0, 0.6)  # large enough that every cached key and value counts
    return model


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    return network()


class Recorded:
    """A graph as CUDA's: what is run again is what was recorded, on whatever lies in the same memory by then."""

    def __init__(self, run: Callable[[], torch.Tensor]) -> None:
        self.run, self.output = run, run()

    def replay(self) -> torch.Tensor:
        return self.output.copy_(self.run())


def record_here(engine: Engine) -> None:
    assert engine.runner.static is not None
    engine.runner.static.record = Recorded


def bans_odd(output_ids: Any, logits: torch.Tensor) -> None:
    if len(output_ids) % 2:
        logits[1::2] = -torch.inf


STATIC = {
    "padded": {"static_decode": True},
    "recorded": {"static_decode": True},
    "ahead": {"run_ahead": True},
    "recorded and ahead": {"run_ahead": True},
}
PARAMS = [
    SamplingParams(temperature=0, max_tokens=20),
    SamplingParams(seed=5, max_tokens=20, stop_token_ids=[3, 7]),
    SamplingParams(seed=6, temperature=0.8, top_p=0.8, top_k=9, max_tokens=20, min_tokens=4, stop_token_ids=[5]),
    SamplingParams(seed=7, repetition_penalty=1.3, max_tokens=20),
    SamplingParams(seed=8, draft="lookup", max_tokens=20),
    SamplingParams(seed=9, logprobs=2, max_tokens=20),
    SamplingParams(seed=10, presence_penalty=0.7, frequency_penalty=0.4, bad_words_ids=[[3], [4, 5]], max_tokens=20),
    SamplingParams(seed=11, constraint=lambda: Counting(32), logit_bias={9: 3.0}, max_tokens=20),
    SamplingParams(temperature=0, hook=bans_odd, logprobs=0, max_tokens=20),
]


KINDS = [*PARAMS[:3], *PARAMS]  # mostly those that can run ahead


def engine_of(model: Any, name: str, **config: Any) -> Engine:
    engine = Engine(model, EngineConfig(**(STATIC[name] | config)))
    if "recorded" in name:
        record_here(engine)
    return engine


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("seed", [2, 3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1, 4))])
def test_storm(model: Any, name: str, seed: int) -> None:
    """Whatever comes and goes: every answer is the one the ordinary engine gives to that request alone."""
    chance = random.Random(seed)
    engine = engine_of(
        model, name, kv_memory=chance.randint(52, 140) * BYTES_PER_TOKEN, block_size=chance.choice([1, 4]),
        max_running=chance.randint(1, 6), max_batch_tokens=16,
    )  # fmt: skip
    requests: list[Request] = []
    for _ in range(chance.randint(3, 14)):
        prompt = [chance.randrange(6) for _ in range(chance.randint(1, 30))]
        params = replace(chance.choice(KINDS), seed=chance.randrange(99), max_tokens=chance.randint(4, 20))
        requests.append(engine.submit(prompt, params))
        for _ in range(chance.choice([0, 0, 1, 5, 30])):
            engine.step()
            engine.check_integrity()
        if chance.random() < 0.15:
            engine.abort(chance.choice(requests))
    while engine.scheduler.has_work:
        engine.step()
        engine.check_integrity()
    plain = Engine(model, EngineConfig())
    for request in requests:
        alone = plain.generate([request.prompt_ids], request.params)[0]
        assert request.finished
        assert tuple(request.output_ids) == alone.token_ids[: len(request.output_ids)]
        assert [token for output in request.outputs for token in output.token_ids] == request.output_ids
        if request.finish_reason != "abort":
            assert (request.finish_reason, request.stop_id) == (alone.finish_reason, alone.stop_id)
            assert len(request.output_ids) == len(alone.token_ids)
    assert engine.blocks.num_free == engine.blocks.num_blocks


@pytest.mark.parametrize("name", STATIC)
def test_the_static_path_is_the_one_that_runs(model: Any, name: str) -> None:
    engine = engine_of(model, name)
    static = engine.runner.static
    assert static is not None
    prompts = [[1, 2], [3, 4, 5], [6]]
    assert engine.generate(prompts, PARAMS[0]) == Engine(model).generate(prompts, PARAMS[0])
    if "recorded" in name:
        assert set(static.graphs) == {4}, "three requests are padded to four"
        assert static.num_replays >= 19
    if "ahead" in name:
        assert engine.ahead is not None
        assert engine.ahead.num_followed >= 18


def test_requests_whose_scores_are_edited_run_ahead_too(model: Any) -> None:
    """Beside others and alone; only who may ask for drafts is not run ahead, nor is anybody beside."""
    prompts = [[number, 2] for number in range(len(PARAMS))]
    chosen = [(prompt, params) for prompt, params in zip(prompts, PARAMS, strict=True) if params.draft != "lookup"]
    for group in (chosen, *([one] for one in chosen)):
        engine = engine_of(model, "recorded and ahead")
        requests = [engine.submit(prompt, replace(params, stop_token_ids=())) for prompt, params in group]
        answers = [engine.wait(request) for request in requests]
        assert engine.ahead is not None
        assert engine.runner.static is not None
        assert engine.ahead.num_followed >= 17
        assert engine.runner.static.num_replays >= 18
        for request, answer in zip(requests, answers, strict=True):
            alone = Engine(model).generate([request.prompt_ids], request.params)[0]
            assert replace(answer, logprobs=()) == replace(alone, logprobs=())
            told = [[item.logprob for item in one.logprobs] for one in (answer, alone)]
            assert told[0] == pytest.approx(told[1], abs=1e-4)  # products of padded batches round in their own way


def test_a_constraint_that_fails_on_the_way_ends_its_own_request(model: Any) -> None:
    class Tires(Counting):
        def accept(self, ids: Any) -> None:
            super().accept(ids)
            if len(self.told) > 6:
                raise RuntimeError("no more")

    engine = engine_of(model, "ahead")
    bad = engine.submit([1], SamplingParams(seed=1, constraint=lambda: Tires(32), max_tokens=20))
    good = engine.submit([2], PARAMS[0])
    failed = engine.wait(bad)
    assert (failed.finish_reason, len(failed.token_ids)) == ("error", 6)
    assert "the constraint failed: RuntimeError('no more')" in (failed.error or "")
    assert engine.wait(good) == Engine(model).generate([[2]], PARAMS[0])[0]
    engine.check_integrity()


def test_a_prefix_network_and_every_cache_dtype() -> None:
    model = network(pre_seq_len=5)
    for kv_dtype in ("model", "float16", "int8"):
        plain = Engine(model, EngineConfig(kv_dtype=kv_dtype)).generate([[1, 2], [3] * 20], PARAMS[0])
        static = engine_of(model, "ahead", kv_dtype=kv_dtype).generate([[1, 2], [3] * 20], PARAMS[0])
        assert static == plain


def test_what_ran_for_a_request_that_had_ended_is_thrown_away(model: Any) -> None:
    """The second turn of a text that ended at a stop token, from the cache, is what it is without one."""
    engine = engine_of(model, "ahead", block_size=1)
    plain = Engine(model, EngineConfig(prefix_cache=False))
    params = replace(PARAMS[1], stop_token_ids=range(16))
    for start in range(16):
        request = engine.submit([start, 1], params)
        answer = engine.wait(request)
        again = engine.generate([[*request.token_ids, 9, 9]], PARAMS[0])
        assert again == plain.generate([[*request.token_ids, 9, 9]], PARAMS[0])
        assert answer == plain.generate([[start, 1]], params)[0]
        engine.check_integrity()


def test_a_broken_step_ends_its_requests_and_no_others(model: Any) -> None:
    engine = engine_of(model, "ahead")
    static = engine.runner.static
    assert static is not None
    requests = [engine.submit([1, 2], PARAMS[0]), engine.submit([3, 4], PARAMS[0])]
    for _ in range(4):
        engine.step()
    aborted = engine.submit([5], PARAMS[0])
    while aborted.num_output < 3:
        engine.step()
    engine.abort(aborted)
    run, static.run = static.run, None  # type: ignore[assignment, method-assign]
    while not requests[0].finished:
        engine.step()
    assert [request.finish_reason for request in requests] == ["error", "error"]
    assert aborted.finish_reason == "abort"
    static.run = run  # type: ignore[method-assign]
    assert engine.generate([[1, 2]], PARAMS[0]) == Engine(model).generate([[1, 2]], PARAMS[0])
    engine.check_integrity()


def test_a_lost_flight_ends_those_who_are_still_there(model: Any) -> None:
    """Who has been aborted, or has ended, while the step was under way is told nothing more."""
    engine = engine_of(model, "ahead")
    aborted, lost = engine.submit([1, 2], PARAMS[0]), engine.submit([3, 4], PARAMS[0])
    while lost.num_output < 4:
        engine.step()
    assert engine.loop._flight is not None
    engine.abort(aborted)
    engine.loop._flight.error = RuntimeError("the device is gone")
    engine.step()
    assert (aborted.finish_reason, aborted.error) == ("abort", None)
    assert lost.finish_reason == "error"
    assert "the device is gone" in (lost.error or "")
    for request in (aborted, lost):
        assert [output.finish_reason for output in request.outputs if output.finish_reason] == [request.finish_reason]
        assert [token for output in request.outputs for token in output.token_ids] == request.output_ids
    engine.check_integrity()
    assert not engine.scheduler.has_work
    assert engine.generate([[1, 2]], PARAMS[0]) == Engine(model).generate([[1, 2]], PARAMS[0])


def test_no_step_is_begun_for_a_request_that_will_have_ended(model: Any) -> None:
    """The last token it may have is on its way: there is neither a use nor room for one more."""
    engine = engine_of(model, "ahead", block_size=1, kv_memory=22 * BYTES_PER_TOKEN)
    request = engine.submit([1, 2], PARAMS[0])
    engine.wait(request)
    assert len(request.token_ids) == request.max_total == 22
    assert engine.ahead is not None
    assert engine.ahead.num_followed == 18, "of 20 tokens the first comes with the prompt, the second begins the chain"
    assert engine.loop._flight is None
    short, long = (
        engine.submit([3], replace(PARAMS[0], max_tokens=5)),
        engine.submit([4], replace(PARAMS[0], max_tokens=9)),
    )
    sizes = []
    while engine.scheduler.has_work:
        engine.step()
        sizes.append(len(engine.loop._flight.pieces) if engine.loop._flight is not None else 0)
    assert sizes == [2, 2, 2, 2, 1, 1, 1, 1, 0]
    for request in (short, long):
        assert tuple(request.output_ids) == Engine(model).generate([request.prompt_ids], request.params)[0].token_ids


def test_nan_logits_end_the_request_they_belong_to() -> None:
    """They come in the middle of an answer, so that the step after has been begun with no token to begin it with."""
    model = network()
    written = Engine(model).generate([[1, 2]], PARAMS[0])[0].token_ids
    poison = next(token for token in written[2:] if token not in (1, 2, 3, *written[:2]))
    with torch.no_grad():
        model.transformer.embedding.word_embeddings.weight[poison] = torch.nan
    engine = engine_of(model, "ahead")
    others = replace(PARAMS[1], stop_token_ids=(), temperature=0.1, max_tokens=40)
    bad, good = engine.submit([1, 2], PARAMS[0]), engine.submit([3], others)
    answers = engine.wait(bad), engine.wait(good)
    assert answers[0].finish_reason == "error"
    assert "NaN" in (answers[0].error or "")
    assert answers[0].token_ids == written[: written.index(poison) + 1]
    assert answers[1] == Engine(model).generate([[3]], others)[0]
    assert len(answers[1].token_ids) > len(answers[0].token_ids) + 1


def test_recording_that_fails_is_said_once_and_costs_nothing_else(model: Any) -> None:
    engine = engine_of(model, "padded")
    static = engine.runner.static
    assert static is not None

    def fails(run: Any) -> Any:
        raise RuntimeError("no capture today")

    static.record = fails
    with pytest.warns(UserWarning, match="without CUDA graphs.*no capture today"):
        answers = engine.generate([[1, 2]], PARAMS[0])
    assert answers == engine.generate([[1, 2]], PARAMS[0]) == Engine(model).generate([[1, 2]], PARAMS[0])


@pytest.mark.parametrize("attention", ["sdpa", "reference"])
def test_a_decode_step_reads_nothing_back_from_its_device(attention: str) -> None:
    """Packed weights and a quantized embedding on a device that has no values to read: it could be recorded."""
    with torch.device("meta"):
        model = network()
        quantize_empty_model(model, QuantScheme(4, 32, head_bits=8, embedding_bits=8))
    cache = KVCache(2, 64, 2, 4, torch.float32, torch.device("meta"))
    runner = ModelRunner(model, cache, 4, Sampler(), attention)
    runner.use_static_decode(4, 4, capture=False, compiled=False)
    assert runner.static is not None
    ids = torch.zeros(3, dtype=torch.long, device="meta")
    lengths, tables = ids.int(), torch.zeros(3, 4, dtype=torch.int32, device="meta")
    batch = PagedBatch(cache, ids, (), tables, lengths, runner.static.starts[:4], 4)
    with torch.inference_mode():
        assert runner.static.run(ids, ids, batch).shape == (3, 32)


def test_padded_sizes() -> None:
    assert padded_sizes(1) == [1]
    assert padded_sizes(6) == [1, 2, 4, 6]
    assert padded_sizes(64) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]
    assert padded_sizes(100) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 100]


@pytest.mark.slow
def test_compiled_steps_are_one_graph(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as on a GPU (all in one piece: a part that cannot be compiled is an error), without generating code."""
    compile_, batches = torch.compile, []

    def backend(graph: Any, inputs: Any) -> Any:
        batches.append(graph)
        return graph.forward

    monkeypatch.setattr(
        runner_module.torch, "compile", lambda function, **kw: compile_(function, backend=backend, fullgraph=True, **kw)
    )
    engine = engine_of(model, "ahead", compile=True, block_size=4, max_running=2)
    answers = engine.generate([[1, 2], [3, 4, 5]], PARAMS[0])
    assert answers == Engine(model).generate([[1, 2], [3, 4, 5]], PARAMS[0])
    assert engine.generate([[7, 8]], PARAMS[0]) == Engine(model).generate([[7, 8]], PARAMS[0])
    assert len(batches) == 2, "one for each batch size, however long the texts grow"


def test_after_warming_up_nothing_is_recorded_any_more(model: Any) -> None:
    engine = engine_of(model, "recorded", block_size=4, max_running=5)
    decoder = engine.runner.static
    assert decoder is not None
    recorded = []
    decoder.record = lambda run: recorded.append(run) or Recorded(run)  # type: ignore[func-returns-value]
    before = engine.stats()
    engine.warm_up()
    assert sorted(decoder.graphs) == decoder.sizes == [1, 2, 4, 5]
    assert len(recorded) == 4
    assert engine.stats() == before, "it was for nobody"
    prompts = [[1, 2], [3, 4, 5], [6]]
    assert engine.generate(prompts, PARAMS[0]) == Engine(model).generate(prompts, PARAMS[0])
    assert len(recorded) == 4
    engine.check_integrity()


def test_engines_do_not_share_the_memory_of_their_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Graph:
        def __init__(self, run: Any, pool: Any) -> None:
            self.given, self.graph = pool, self
            self.pool = lambda: "pool of " + str(pool or id(self))

    monkeypatch.setattr(static, "CudaGraph", Graph)
    first, second = static.CudaGraphs(), static.CudaGraphs()
    assert first(lambda: None).given is None
    assert first(lambda: None).given is not None
    assert second(lambda: None).given is None


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"compile": True}, {"capture": False}, {"kv_dtype": "int8"}], ids=str)
def test_recorded_steps_on_a_gpu(settings: dict[str, Any]) -> None:
    model = network(kv_channels=16, hidden_size=64, ffn_hidden_size=64).to("cuda")
    kv_dtype = settings.get("kv_dtype", "model")
    plain = Engine(model, EngineConfig(attention="reference", static_decode=False, kv_dtype=kv_dtype))
    engine = Engine(model, EngineConfig(**settings))
    assert engine.runner.filling.name == "triton"
    prompts = [[1, 2], [3, 4, 5], [6], list(range(20))]
    for params in PARAMS:
        found = engine.generate(prompts, params)
        assert [one.token_ids for one in found] == [one.token_ids for one in plain.generate(prompts, params)]
    assert engine.runner.static is not None
    assert bool(engine.runner.static.graphs) == settings.get("capture", True)
    engine.check_integrity()


@pytest.mark.gpu
def test_running_ahead_never_waits_for_the_gpu() -> None:
    """Between reading two steps' tokens nothing makes Python wait; torch raises where something would."""
    model = network(kv_channels=16, hidden_size=64, ffn_hidden_size=64).to("cuda")
    engine = Engine(model)
    for params in PARAMS[:3]:
        request = engine.submit([1, 2], replace(params, max_tokens=40, stop_token_ids=()))
        while request.num_output < 8:
            engine.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            engine.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        engine.abort(request)
