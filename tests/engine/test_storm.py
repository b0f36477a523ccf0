"""Random storms: requests come, go and are aborted in any order over a tiny pool; invariants hold after every step."""

import copy
import gc
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import Request, SamplingParams
from chatglm.errors import RequestError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=1, hidden_size=16, ffn_hidden_size=16, kv_channels=4, num_attention_heads=4, padded_vocab_size=32,
        multi_query_attention=True, multi_query_group_num=2, seq_length=64, eos_token_id=None,
    )  # fmt: skip
    return ChatGLMForConditionalGeneration(config).eval()


BYTES_PER_TOKEN = 2 * 1 * 2 * 4 * 4

submits = st.tuples(
    st.just("submit"),
    st.lists(st.integers(0, 3), min_size=1, max_size=30),  # few ids, so that beginnings are shared
    st.integers(1, 20),
    st.sampled_from([None, "lookup", "model"]),
    st.sampled_from([0.0, 1.5]),
)
actions = st.lists(
    st.one_of(submits, st.tuples(st.just("step")), st.tuples(st.just("abort"), st.integers(0, 99))), max_size=40
)


def act(engine: Engine, requests: list[Request], action: tuple[Any, ...]) -> None:
    if action[0] == "submit":
        _, prompt, max_tokens, draft, temperature = action
        params = SamplingParams(temperature=temperature, seed=1, max_tokens=max_tokens, draft=draft)
        requests.append(engine.submit(prompt, params))
    elif action[0] == "step":
        engine.step()
    elif requests:
        engine.abort(requests[action[1] % len(requests)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=actions,
    pool=st.integers(52, 80),
    block_size=st.sampled_from([1, 4]),
    batch=st.sampled_from([3, 16, 64]),
    running=st.integers(1, 6),
)
def test_storm(model: Any, actions: Any, pool: int, block_size: int, batch: int, running: int) -> None:
    config = EngineConfig(
        block_size=block_size, kv_memory=pool * BYTES_PER_TOKEN, max_batch_tokens=batch, max_running=running
    )
    engine = Engine(model, config, draft_model=model)
    requests: list[Request] = []
    for action in actions:
        act(engine, requests, action)
        engine.check_integrity()
    for _ in range(2000):
        if not engine.scheduler.has_work:
            break
        engine.step()
        engine.check_integrity()
    assert all(request.finish_reason in ("stop", "length", "abort") for request in requests), "a request was dropped"
    assert engine.blocks.num_free == engine.blocks.num_blocks
    for request in requests:
        if request.finish_reason == "length":
            assert len(request.token_ids) == request.max_total
        assert [token for output in request.outputs for token in output.token_ids] == request.output_ids
        assert [output.finish_reason for output in request.outputs][-1] == request.finish_reason


@pytest.mark.slow
def test_soak_keeps_memory_flat(model: Any) -> None:
    """Two thousand requests over a small pool: afterwards nothing is held that was not held after the first hundred."""
    engine = Engine(model, EngineConfig(block_size=4, kv_memory=400 * BYTES_PER_TOKEN, max_running=16))
    generator = torch.Generator().manual_seed(0)
    held = []
    for round_ in range(20):
        lengths = torch.randint(1, 30, (100,), generator=generator).tolist()
        prompts = [torch.randint(0, 32, (length,), generator=generator).tolist() for length in lengths]
        engine.generate(prompts, SamplingParams(seed=round_, max_tokens=12, draft="lookup"))
        gc.collect()
        held.append(len(gc.get_objects()))
    engine.check_integrity()
    assert held[-1] < held[1] + 1000, held


def test_scoring_under_pressure_waits_for_the_others(model: Any) -> None:
    engine = Engine(model, EngineConfig(block_size=4, kv_memory=52 * BYTES_PER_TOKEN))
    text = [1, 2, 3] * 10
    expected = engine.score(text, [1, 2])
    request = engine.submit([3] * 12, SamplingParams(temperature=0, max_tokens=36))
    engine.step()
    score = engine.score(text, [1, 2])
    assert score.logprob == pytest.approx(expected.logprob, abs=1e-4)
    engine.wait(request)
    assert request.finish_reason == "length"
    engine.check_integrity()


def test_a_failing_draft_model_costs_guesses_and_nothing_else(model: Any) -> None:
    broken = copy.deepcopy(model)
    broken.forward = None
    engine = Engine(model, draft_model=broken)
    params = SamplingParams(temperature=0, max_tokens=8)
    with pytest.warns(UserWarning, match="draft model failed"):
        answer = engine.generate([[1, 2]], replace(params, draft="model"))[0]
    assert answer.token_ids == engine.generate([[1, 2]], params)[0].token_ids
    nans = copy.deepcopy(model)
    with torch.no_grad():
        nans.transformer.output_layer.weight.fill_(torch.nan)
    engine = Engine(model, draft_model=nans)
    assert engine.generate([[1, 2]], replace(params, draft="model"))[0].token_ids == answer.token_ids


def test_a_draft_model_of_another_vocabulary_is_refused(model: Any) -> None:
    config = copy.deepcopy(model.config)
    config.padded_vocab_size = 40
    with pytest.raises(RequestError, match="40 tokens and the model 32"):
        Engine(model, draft_model=ChatGLMForConditionalGeneration(config))


def test_the_lock_goes_to_whoever_asked_first(model: Any) -> None:
    """While one thread steps in a loop, another hands in a request within a few steps."""
    engine = Engine(model)
    running = engine.submit([1, 2], SamplingParams(temperature=0, max_tokens=60))
    thread = threading.Thread(target=lambda: engine.wait(running))
    waited = []
    thread.start()
    for _ in range(5):
        before = engine.stats().steps
        request = engine.submit([3, 4], SamplingParams(max_tokens=1))
        waited.append(engine.stats().steps - before)
        engine.abort(request)
    thread.join()
    assert max(waited) <= 4
