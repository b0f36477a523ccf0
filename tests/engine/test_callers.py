"""What callers may do to an engine: from any thread, at any moment, with anything for settings."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from chatglm.engine import memory
from chatglm.engine.adapters import LowRank
from chatglm.engine.cache import KVCache
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.memory import _left_to_the_container, free_memory
from chatglm.engine.request import SamplingParams
from chatglm.errors import GenerationError, RequestError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=1, hidden_size=16, ffn_hidden_size=16, kv_channels=4, num_attention_heads=4, padded_vocab_size=32,
        multi_query_attention=True, multi_query_group_num=2, seq_length=64, eos_token_id=None,
    )  # fmt: skip
    return ChatGLMForConditionalGeneration(config).eval()


class Letters:
    """Ids to letters; `failing_at` and `held` break and block it."""

    def __init__(self, failing_at: int | None = None, flushed: Any = lambda: "") -> None:
        self.count, self.failing_at, self.flushed = 0, failing_at, flushed

    def push(self, token_id: int) -> str:
        self.count += 1
        if self.count == self.failing_at:
            raise ValueError("no such piece")
        return chr(ord("a") + token_id)

    def flush(self) -> str:
        return self.flushed()


def test_the_last_output_reaches_a_reader_of_another_thread(model: Any) -> None:
    """A request is over before its last output is handed in; whoever reads just then must wait for it."""
    ending, go_on = threading.Event(), threading.Event()

    def flushed() -> str:
        ending.set()
        go_on.wait(10)
        return "!"

    engine = Engine(model, new_decoder=lambda: Letters(flushed=flushed))
    request = engine.submit([1, 2], GREEDY)
    stepping = threading.Thread(target=lambda: [engine.step() for _ in range(8)])
    stepping.start()
    assert ending.wait(10)
    threading.Timer(0.2, go_on.set).start()
    outputs = list(engine.stream(request))
    stepping.join()
    assert outputs[-1].finish_reason == "length"
    assert outputs[-1].text.endswith("!")
    assert [token for output in outputs for token in output.token_ids] == request.output_ids


@pytest.mark.parametrize("ahead", [False, True])
def test_a_step_that_is_interrupted_is_taken_again(model: Any, ahead: bool) -> None:
    """Also where the step after it runs already: its tokens follow upon those that were lost."""
    engine = Engine(model, EngineConfig(run_ahead=ahead or None))
    request = engine.submit([1, 2], GREEDY)
    while request.num_output < 3:
        engine.step()
    commit = engine.ledger.commit

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    engine.ledger.commit = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    engine.ledger.commit = commit  # type: ignore[method-assign]
    engine.check_integrity()
    assert engine.wait(request).token_ids == Engine(model).generate([[1, 2]], GREEDY)[0].token_ids


def test_nobody_is_left_behind_when_one_prompt_is_refused(model: Any) -> None:
    engine = Engine(model)
    with pytest.raises(RequestError, match="no tokens"):
        engine.generate([[1], [2], []], GREEDY)
    assert not engine.scheduler.has_work


def test_a_failing_decoder_ends_its_request_alone(model: Any) -> None:
    made: Iterator[Letters] = iter([Letters(failing_at=3), Letters(flushed=lambda: [][0]), Letters()])
    engine = Engine(model, new_decoder=lambda: next(made))
    requests = [engine.submit(prompt, GREEDY) for prompt in ([1], [2], [3])]
    answers = [engine.wait(request) for request in requests]
    assert [answer.finish_reason for answer in answers] == ["error", "error", "length"]
    assert "no such piece" in (answers[0].error or "")
    assert "IndexError" in (answers[1].error or "")
    assert [len(answer.token_ids) for answer in answers] == [3, 8, 8]
    assert len(answers[2].text) == 8
    engine.check_integrity()


def test_a_stop_string_in_the_last_bytes_is_the_reason(model: Any) -> None:
    engine = Engine(model, new_decoder=lambda: Letters(flushed=lambda: "END"))
    answer = engine.generate([[1]], replace(GREEDY, stop=["END"]))[0]
    assert (answer.finish_reason, len(answer.text)) == ("stop", 8)


@pytest.mark.parametrize("steps", [{}, {"static_decode": True}])
def test_an_adapter_taken_away_is_refused_not_missed(model: Any, steps: Any) -> None:
    """Between looking a name up and joining the line another thread may take it away."""
    engine = Engine(model, EngineConfig(**steps), new_decoder=Letters)
    engine.add_adapter("x", {})
    engine.new_decoder = lambda: engine.remove_adapter("x") or Letters()  # type: ignore[func-returns-value]
    with pytest.raises(RequestError, match="'x'; loaded are: none"):
        engine.submit([1], GREEDY, adapter="x")
    assert not engine.scheduler.has_work


WRONG: list[tuple[str, Any]] = [
    ("temperature", -1), ("temperature", float("nan")), ("temperature", "1"), ("temperature", float("inf")),
    ("temperature", True), ("top_p", 0), ("top_p", 1.1), ("top_p", None), ("top_k", -1), ("top_k", 1.5), ("min_p", 2),
    ("min_p", float("nan")), ("repetition_penalty", 0), ("repetition_penalty", float("inf")), ("presence_penalty", 3),
    ("frequency_penalty", "0"), ("logit_bias", {"5": 1}), ("logit_bias", {5: float("nan")}),
    ("logit_bias", {5: float("inf")}), ("logit_bias", [5]), ("bad_words", "word"), ("bad_words", [""]),
    ("bad_words", [5]), ("bad_words_ids", [[]]), ("bad_words_ids", [5]), ("bad_words_ids", [["a"]]),
    ("bad_words_ids", [[-1]]), ("seed", "x"), ("seed", 1.5), ("stop_token_ids", 2), ("stop_token_ids", ["2"]),
    ("stop", "x"), ("stop", [b"x"]), ("min_tokens", -1), ("min_tokens", 9), ("max_tokens", 0), ("max_tokens", 1.0),
    ("logprobs", 21), ("logprobs", True), ("draft", "lookahead"), ("hook", 5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_settings_that_mean_nothing_name_themselves(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"^{name} is "):
        replace(GREEDY, **{name: value})


def test_ids_of_other_libraries_are_ids(model: Any) -> None:
    engine = Engine(model)
    expected = engine.generate([[1, 2, 3]], GREEDY)
    for prompt in (torch.tensor([1, 2, 3]), numpy.array([1, 2, 3]), (1, 2, 3)):
        assert engine.generate([prompt], GREEDY) == expected  # type: ignore[list-item]
        assert all(type(token) is int for token in engine.submit(prompt, GREEDY).prompt_ids)  # type: ignore[arg-type]
    replace(GREEDY, seed=numpy.int64(3), temperature=numpy.float32(0.5), stop_token_ids=[numpy.int64(3)])
    for wrong in ([1.5], ["1"], [[1]], [None]):
        with pytest.raises(RequestError, match="no whole numbers"):
            engine.submit(wrong, GREEDY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bad_words_ids": [[3, 32]]}, "bad_words_ids with id 32"),
        ({"logit_bias": {32: 1}}, "logit_bias for id 32"),
        ({"stop_token_ids": [99]}, "stop token 99"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused_at_once(model: Any, params: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"{message} is outside the vocabulary of 32 tokens"):
        Engine(model).submit([1], replace(GREEDY, **params))


def test_n_is_a_number_of_answers(model: Any) -> None:
    for wrong in (0, -1, 1.5, "2"):
        with pytest.raises(RequestError, match="n is "):
            Engine(model).submit_many([1], GREEDY, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("params", [
    {"top_p": 0.8}, {"top_p": 0.9999999}, {"top_p": 1e-300}, {"temperature": 1e-300}, {"top_k": 10**30},
    {"min_p": 1.0}, {"top_k": 3, "top_p": 0.5, "min_p": 0.1}, {"logprobs": 20}, {"seed": -(10**40)},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("filler", [torch.nan, torch.inf, -torch.inf])
def test_extreme_settings_and_broken_logits_end_nobody_else(model: Any, params: Any, filler: float) -> None:
    def breaks(output_ids: Any, logits: torch.Tensor) -> None:
        if len(output_ids) == 2:
            logits.fill_(filler)

    engine = Engine(model)
    params = replace(SamplingParams(seed=1, max_tokens=6), **params)
    good, bad = engine.submit([1, 2], params), engine.submit([1, 2], replace(params, hook=breaks))
    assert engine.wait(good).finish_reason == "length"
    answer = engine.wait(bad)
    assert (answer.finish_reason, answer.token_ids) == ("error", tuple(good.output_ids[:2]))
    assert all(0 <= token < 32 for token in good.output_ids)


def test_logprobs_of_a_small_vocabulary() -> None:
    config = ChatGLMConfig(
        num_layers=1, hidden_size=16, ffn_hidden_size=16, kv_channels=4, num_attention_heads=4, padded_vocab_size=8,
        multi_query_attention=True, multi_query_group_num=2, seq_length=64, eos_token_id=None,
    )  # fmt: skip
    answer = Engine(ChatGLMForConditionalGeneration(config).eval()).generate([[1]], replace(GREEDY, logprobs=20))[0]
    assert all(len(item.top) == 8 for item in answer.logprobs)


def test_a_score_of_nan_logits_is_an_error(model: Any) -> None:
    handle = model.transformer.output_layer.register_forward_hook(lambda module, inputs, output: output * torch.nan)
    try:
        with pytest.raises(GenerationError, match="NaN"):
            Engine(model).score([1, 2], [3])
    finally:
        handle.remove()


def test_the_hit_rate_counts_every_request_once(model: Any) -> None:
    """However long one waits for room: what it would find is looked up in every step."""
    engine = Engine(model, EngineConfig(block_size=4, kv_memory=2 * 2 * 4 * 4 * 64))
    known = engine.submit([1, 2, 3] * 8, replace(GREEDY, max_tokens=1))
    engine.wait(known)
    large = engine.submit([9] * 40, replace(GREEDY, max_tokens=20))
    engine.step()
    again = engine.submit([1, 2, 3] * 8, GREEDY)
    engine.step()
    assert engine.stats().waiting == 1
    for request in (large, again):
        engine.wait(request)
    stats = engine.stats()
    assert stats.prefix_tokens_queried == 24 + 40 + 24
    assert stats.prefix_tokens_hit == sum(request.num_cached for request in (known, large, again))


def test_the_first_in_line_changes_nothing_by_standing_there(model: Any) -> None:
    """It hits the cache and does not fit: it is not looked up again until something has changed, and what it would
    use keeps its place in the order in which blocks are forgotten."""
    engine = Engine(model, EngineConfig(block_size=4, kv_memory=2 * 2 * 4 * 4 * 64))
    for prompt in ([1, 2, 3] * 5, [4, 5, 6] * 5):
        engine.wait(engine.submit(prompt, replace(GREEDY, max_tokens=1)))
    large = engine.submit([9] * 30, replace(GREEDY, max_tokens=12))
    engine.step()
    before = list(engine.blocks.reusable)
    looked, match = [], engine.blocks.match
    engine.blocks.match = lambda request: looked.append(request) or match(request)  # type: ignore[method-assign,func-returns-value]
    again = engine.submit([1, 2, 3] * 11, replace(GREEDY, max_tokens=20))
    for _ in range(8):
        engine.step()
        assert again.status.value == "waiting"
    assert list(engine.blocks.reusable) == [block for block in before if block in engine.blocks.reusable]
    assert len(looked) <= 1
    engine.wait(large)
    engine.wait(again)
    assert (again.num_cached, again.finish_reason) == (8, "length"), "of its three blocks one was needed meanwhile"


def test_a_long_prompt_holds_nobody_up(model: Any) -> None:
    """Beside answers prompts take a few tokens of a step; alone, all it has."""
    engine = Engine(model, EngineConfig(max_prompt_tokens=4, block_size=4))
    sizes: list[tuple[int, ...]] = []
    run = engine.runner.run
    engine.runner.run = lambda pieces: sizes.append(tuple(p.num_tokens for p in pieces)) or run(pieces)  # type: ignore[method-assign,func-returns-value]
    first = engine.submit([1] * 20, GREEDY)
    engine.step()
    late = [engine.submit([token] * 7, GREEDY) for token in (2, 3)]
    for request in (first, *late):
        engine.wait(request)
    assert sizes[:5] == [(20,), (1, 4), (1, 3, 1), (1, 1, 4), (1, 1, 2)]
    assert len(first.output_ids) == 8
    for request in late:
        assert tuple(request.output_ids) == Engine(model).generate([request.prompt_ids], GREEDY)[0].token_ids
    assert Engine(model).scheduler.max_prompt_tokens == 64


def test_guesses_throw_nobody_out(model: Any) -> None:
    """Drafts take blocks that are free, never those of a request that is running."""
    engine = Engine(model, EngineConfig(block_size=1, kv_memory=2 * 2 * 4 * 4 * 64), draft_model=model)
    params = replace(GREEDY, draft="model", max_tokens=26)
    requests = [engine.submit([token] * 6, params) for token in (1, 2)]  # together exactly what there is
    for request in requests:
        engine.wait(request)
    assert engine.stats().preemptions == 0
    assert engine.stats().drafts_accepted > 0


def test_a_long_prompt_of_a_draft_model_is_run_in_pieces(model: Any) -> None:
    engine = Engine(model, draft_model=model)
    draft = engine.drafter.draft_model
    assert draft is not None
    draft.most = 4
    sizes: list[int] = []
    run = draft.runner.run
    draft.runner.run = lambda pieces: sizes.append(pieces[0].num_tokens) or run(pieces)  # type: ignore[method-assign,func-returns-value]
    answer = engine.generate([[1, 2, 3] * 7], replace(GREEDY, draft="model"))[0]
    assert answer.token_ids == engine.generate([[1, 2, 3] * 7], GREEDY)[0].token_ids
    assert max(sizes) == 4
    assert engine.stats().drafts_accepted == engine.stats().drafts_proposed > 0


def test_a_lock_is_free_after_every_error(model: Any) -> None:
    engine = Engine(model)
    with pytest.raises(RequestError):
        engine.score([1], [])
    with pytest.raises(RequestError, match="no adapter"):
        engine.score([1], [2], adapter="x")
    done = threading.Thread(target=engine.stats)
    done.start()
    done.join(10)
    assert not done.is_alive()


def test_an_adapter_is_for_its_step_and_not_for_other_threads(model: Any) -> None:
    """Somebody else runs the network while a step with an adapter is under way: to them it is the base."""
    path = "transformer.encoder.layers.0.mlp.dense_h_to_4h"
    module = model.get_submodule(path)
    update = LowRank(torch.ones(1, module.in_features), torch.ones(module.out_features, 1), 5.0)
    ids = torch.tensor([[1, 2, 3, 4]])
    expected = model(ids).logits
    engine = Engine(model)
    engine.add_adapter("x", {path: update})
    found: list[torch.Tensor] = []

    def meanwhile(*_: Any) -> None:
        if threading.current_thread() is threading.main_thread() and not found:
            other = threading.Thread(target=lambda: found.append(model(ids).logits))
            other.start()
            other.join()

    handle = model.transformer.embedding.register_forward_hook(meanwhile)
    try:
        with_adapter = engine.wait(engine.submit([1, 2, 3, 4], GREEDY, adapter="x"))
    finally:
        handle.remove()
        engine.remove_adapter("x")
    torch.testing.assert_close(found[0], expected)
    assert with_adapter.token_ids != Engine(model).generate([[1, 2, 3, 4]], GREEDY)[0].token_ids


def test_the_memory_is_said_at_the_start(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="chatglm.engine"):
        stats = Engine(model, EngineConfig(block_size=4, kv_memory=64 * 64)).stats()
    assert (stats.cache_tokens, stats.cache_bytes) == (64, 65 * 64)  # and the slot for padding
    assert "cache of 64 tokens in torch.float32" in caplog.text


def test_free_memory_knows_a_containers_limit(tmp_path: Any) -> None:
    assert _left_to_the_container(tmp_path) is None
    (tmp_path / "memory.current").write_text("300\n")
    for limit, left in (("1000\n", 700), ("max\n", None), ("200\n", 0)):
        (tmp_path / "memory.max").write_text(limit)
        assert _left_to_the_container(tmp_path) == left
    assert free_memory(torch.device("cpu")) > 0


def test_an_engine_of_a_model_alone_stops_where_the_model_says(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free = Engine(model).generate([[1, 2]], GREEDY)[0]
    assert free.finish_reason == "length"
    third = free.token_ids[2]
    for holder, ids in ((model.generation_config, [third, 999]), (model.config, third)):
        monkeypatch.setattr(model.generation_config, "eos_token_id", None)
        monkeypatch.setattr(holder, "eos_token_id", ids)
        answer = Engine(model).generate([[1, 2]], GREEDY)[0]
        assert (answer.finish_reason, answer.stop_id) == ("stop", third)
        for settings, params in ((EngineConfig(stop_token_ids=()), GREEDY), (None, replace(GREEDY, ignore_eos=True))):
            assert Engine(model, settings).generate([[1, 2]], params)[0].token_ids == free.token_ids


def test_an_engine_that_knows_ids_only_says_so(model: Any) -> None:
    answer = Engine(model).generate([[1]], GREEDY)[0]
    with pytest.raises(RequestError, match=r"no decoder.*`token_ids`.*engine_for"):
        len(answer.text)
    assert len(Engine(model, new_decoder=Letters).generate([[1]], GREEDY)[0].text) == 8


def test_an_engine_says_what_it_is_made_of(model: Any) -> None:
    with pytest.raises(RequestError, match=r"model is a str; .*chatglm\.load"):
        Engine("chatglm3-6b")
    with pytest.raises(RequestError, match=r"config is a dict; it must be an EngineConfig.*engine_for"):
        Engine(model, {"max_running": 3})  # type: ignore[arg-type]


def on_a_gpu(model: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """What sizing looks at, of a model on a GPU that nobody needs to have."""
    return SimpleNamespace(
        config=model.config, device=torch.device("cuda"), dtype=dtype, named_parameters=model.named_parameters
    )


@pytest.mark.parametrize("free", [2**31, 16 * 2**30, 80 * 2**30])
def test_on_a_gpu_the_cache_leaves_room_for_the_largest_step(
    model: Any, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    there = on_a_gpu(model)
    tokens = memory.tokens_of_a_step(there)
    assert 512 <= tokens <= 8192
    found = memory.num_blocks(there, 16, None, 10**12, torch.bfloat16, (tokens, 64))
    taken = found * 16 * KVCache.bytes_per_token(*memory.cache_shape(there), torch.bfloat16)
    assert taken + memory.step_memory(there, tokens, 64) < free
    assert memory.step_memory(there, 2 * tokens, 64) > memory.step_memory(there, tokens, 64)
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**6)
    with pytest.raises(RequestError, match="kv_memory allows 0 bytes"):
        memory.num_blocks(there, 16, None, 10**12, torch.bfloat16, (tokens, 64))


def test_a_device_that_is_gone_ends_everything_at_once(model: Any) -> None:
    """Every call to a GPU fails after one that went wrong: no step can go better, so no other is tried."""
    engine = Engine(model, EngineConfig(block_size=4, max_running=1))
    requests = [engine.submit([1, 2, 3], replace(GREEDY, max_tokens=9)) for _ in range(3)]
    engine.step()
    steps = []

    def lost(*_: Any) -> Any:
        steps.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine.runner.run = engine.runner.check_device = lost  # type: ignore[method-assign]
    engine.step()
    assert len(steps) == 2, "one step, and one look at the device"
    assert [request.finish_reason for request in requests] == ["error"] * 3
    assert "illegal memory access" in str(engine.failed)
    for call in (lambda: engine.submit([1]), engine.warm_up):
        with pytest.raises(GenerationError, match="has failed"):
            call()
