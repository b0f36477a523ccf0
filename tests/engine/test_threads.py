"""Threads of torch and of the native kernels: bound for a step, given back, never both on the same cores."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from chatglm import native
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.engine.threads import StepThreads, products_are_native
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.fused import fuse
from chatglm.quant.model import quantize_model
from chatglm.quant.scheme import QuantScheme

needs_kernels = pytest.mark.skipif(not native.available(), reason=native.why_not())


@pytest.fixture
def two_each() -> Iterator[None]:
    """Two threads of torch and, where there are kernels, two of theirs."""
    before = torch.get_num_threads(), native.num_threads() if native.available() else 0
    torch.set_num_threads(2)
    if before[1]:
        native.set_num_threads(2)
    yield
    torch.set_num_threads(before[0])
    if before[1]:
        native.set_num_threads(before[1])


def network() -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=2, hidden_size=64, ffn_hidden_size=96, kv_channels=16, num_attention_heads=4, padded_vocab_size=96,
        multi_query_attention=True, multi_query_group_num=2, seq_length=64,
    )  # fmt: skip
    return ChatGLMForConditionalGeneration(config).eval()


def now() -> tuple[int, int]:
    return torch.get_num_threads(), native.num_threads() if native.available() else 0


def seen_in_a_step(model: Any, num_threads: int | None) -> list[tuple[int, int]]:
    """In the embedding and in a logits hook."""
    seen: list[tuple[int, int]] = []
    handle = model.transformer.embedding.register_forward_hook(lambda *_: seen.append(now()))
    engine = Engine(model, EngineConfig(num_threads=num_threads))
    params = SamplingParams(max_tokens=1, ignore_eos=True, hook=lambda *_: seen.append(now()))
    answer = engine.generate([[1, 2]], params)[0]
    handle.remove()
    assert answer.finish_reason == "length"
    return seen


@needs_kernels
def test_a_step_has_the_number_it_was_given(two_each: None) -> None:
    assert seen_in_a_step(network(), 3) == [(3, 3), (1, 3)], "the network's threads, then one of torch for sampling"
    assert now() == (2, 2)
    assert seen_in_a_step(network(), None) == [(2, 2), (1, 2)]


@needs_kernels
def test_torch_keeps_to_itself_where_the_kernels_multiply(two_each: None) -> None:
    model = network()
    assert not products_are_native(model)
    quantize_model(model, QuantScheme.parse("int4"))
    assert products_are_native(model)
    for fused in (False, True):
        if fused:
            assert fuse(model)
        assert seen_in_a_step(model, None) == [(1, 2), (1, 2)]
        assert seen_in_a_step(model, 3) == [(1, 3), (1, 3)]
        assert now() == (2, 2)
    next(module for module in model.modules() if hasattr(module, "precise")).precise = True
    assert not products_are_native(model), "torch multiplies one of them"


@contextmanager
def working(count: int, native_products: bool) -> Iterator[None]:
    threads = StepThreads(count, native_products)
    try:
        with threads():
            yield
    finally:
        threads.rest()


@needs_kernels
def test_the_smallest_bound_of_several_counts_and_all_is_given_back(two_each: None) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with working(1, False):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with working(3, False):
        assert native.num_threads() == 3
        thread.start()
        assert inside.wait(10)
        assert native.num_threads() == 1
        leave.set()
        thread.join()
        assert native.num_threads() == 3
        with pytest.raises(KeyError), working(1, True):
            raise KeyError
        assert now() == (3, 3)
    assert now() == (2, 2)


@needs_kernels
def test_the_kernels_keep_their_number_while_there_is_work(two_each: None, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[int] = []
    change = native.set_num_threads
    monkeypatch.setattr(native, "set_num_threads", lambda count: (changes.append(count), change(count)))
    engine = Engine(network(), EngineConfig(num_threads=3))
    engine.generate([[1, 2]], SamplingParams(max_tokens=6, ignore_eos=True))
    assert changes == [3, 2], "once for an answer, not for every token"
    engine.score([1, 2], [3])
    assert now() == (2, 2)
    request = engine.submit([1, 2], SamplingParams(max_tokens=9, ignore_eos=True))
    engine.step()
    assert now() == (2, 3), "torch's is for the step alone"
    engine.abort(request)
    assert now() == (2, 2)
    engine.submit([1, 2])
    engine.step()
    assert now() == (2, 3)
    del engine, request
    gc.collect()
    assert now() == (2, 2), "an engine that was left in the middle of an answer"
