"""The Triton kernels against the reference: interpreted on a CPU, and as they are on a GPU."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fresh_triton import fresh_triton

from chatglm.engine import fillings, triton_attention
from chatglm.engine.attention import attend_reference, decode_gathered, parts_of
from chatglm.engine.cache import KVCache, PagedBatch, PagedSequence
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.errors import RequestError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

HAS_TRITON = importlib.util.find_spec("triton") is not None
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KINDS = [(torch.float32, None), (torch.float16, None), (torch.bfloat16, None), (torch.float32, torch.float16),
         (torch.float32, torch.bfloat16), (torch.float16, torch.int8), (torch.float32, torch.int8)]  # fmt: skip


@pytest.fixture(scope="module")
def interpreted() -> Iterator[ModuleType]:
    """The kernels over a Triton of their own."""
    path = Path(triton_attention.__file__).with_name("triton_kernels.py")
    spec = importlib.util.spec_from_file_location("interpreted_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with fresh_triton(interpreted=True):
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The kernels for the test's device."""
    if not HAS_TRITON:
        pytest.skip("Triton is not installed (PyTorch's CUDA builds bring it)")
    if request.getfixturevalue("device") == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        return importlib.import_module("chatglm.engine.triton_kernels")
    module: ModuleType = request.getfixturevalue("interpreted")
    monkeypatch.setitem(sys.modules, "chatglm.engine.triton_kernels", module)
    monkeypatch.setattr("chatglm.engine.triton_kernels", module, raising=False)
    return module


def random_batch(
    kind: Any, lengths: list[int], new: list[int], groups: int, dim: int, size: int, device: str
) -> PagedBatch:
    """Requests over blocks in random order; what they had before is in the cache."""
    generator = torch.Generator().manual_seed(sum(lengths))
    counts = [-(-length // size) for length in lengths]
    order = torch.randperm(sum(counts) + 3, generator=generator)
    cache = KVCache(2, len(order) * size, groups, dim, kind[0], torch.device(device), stored=kind[1])
    tables = torch.zeros(len(lengths), max(1, *counts), dtype=torch.int32)
    slots, sequences, starts = [], [], [0]
    for row, (length, count, num_new) in enumerate(zip(lengths, counts, new, strict=True)):
        tables[row, :count] = order[sum(counts[:row]) :][:count]
        mine = [int(tables[row, position // size]) * size + position % size for position in range(length)]
        before = torch.tensor(mine[: length - num_new], dtype=torch.long, device=device)
        states = torch.randn(2, len(before), groups, dim, generator=generator).to(device, kind[0])
        for layer in range(2):
            cache.write(layer, before, states[0] * (1 + layer), states[1] - layer)
        runs = tuple(slice(slot, slot + 1) for slot in mine)
        sequences.append(PagedSequence(starts[-1], num_new, runs))
        slots.extend(mine[length - num_new :])
        starts.append(starts[-1] + num_new)
    return PagedBatch(
        cache, torch.tensor(slots, device=device), sequences, tables.to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
        torch.tensor(starts, dtype=torch.int32, device=device), size,
    )  # fmt: skip


def new_states(batch: PagedBatch, heads: int, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Query, key and value as the network has them: heads before tokens in memory."""
    generator = torch.Generator().manual_seed(1)
    groups, device = batch.cache.states.shape[3], batch.cache.states.device
    return tuple(
        torch.randn(count, len(batch.slots), dim, generator=generator).to(device, dtype).transpose(0, 1)
        for count in (heads, groups, groups)
    )


def by_reference(batch: PagedBatch, query: torch.Tensor, layer: int) -> torch.Tensor:
    return torch.cat([
        attend_reference(query[one.start : one.start + one.num_new], parts_of(batch, layer, one.runs), 0.3)
        for one in batch.sequences
    ])  # fmt: skip


def bound(kind: Any) -> dict[str, float]:
    return {"atol": 2e-5, "rtol": 1e-4} if kind[0] == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("groups", "heads", "dim"), [(2, 4, 16), (1, 4, 8), (2, 32, 128)])
def test_decoding_equals_the_reference(kernels: Any, device: str, kind: Any, groups: int, heads: int, dim: int) -> None:
    if kind[0] == torch.bfloat16 and device == "cpu":
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 numbers")
    lengths = [1, 5, 33, 70] if dim < 128 else [70]
    batch = random_batch(kind, lengths, [1] * len(lengths), groups, dim, 4, device)
    query, key, value = new_states(batch, heads, dim, kind[0])
    out = triton_attention.decode_triton(query, key, value, 1, batch, 0.3)
    torch.testing.assert_close(out, by_reference(batch, query, 1), **bound(kind))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_shares", [1, 2, 5, 9])
def test_any_number_of_shares_gives_the_same(kernels: Any, device: str, num_shares: int) -> None:
    batch = random_batch((torch.float32, None), [64, 65, 3], [1] * 3, 2, 16, 16, device)
    query, key, value = new_states(batch, 4, 16, torch.float32)
    batch.cache.write(0, batch.slots, key, value)
    out = kernels.decode(query, batch, 0, batch.block_tables, batch.lengths, 0.3, num_shares)
    torch.testing.assert_close(out, by_reference(batch, query, 0), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_padding_rows_read_nothing(kernels: Any, device: str) -> None:
    batch = random_batch((torch.float32, None), [6, 9], [1, 1], 2, 16, 4, device)
    query, _, _ = new_states(batch, 4, 16, torch.float32)
    lengths = batch.lengths * torch.tensor([1, 0], dtype=torch.int32, device=device)
    out = kernels.decode(query, batch, 0, batch.block_tables, lengths, 0.3, 2)
    assert not out[1].any()
    assert out[0].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_writing_equals_the_cache(kernels: Any, device: str, kind: Any) -> None:
    batch = random_batch(kind, [7, 9], [3, 1], 2, 16, 4, device)
    _, key, value = new_states(batch, 4, 16, kind[0])
    batch.cache.write(1, batch.slots, key, value)
    expected = [state.clone() for state in batch.cache.read(1, batch.slots)]
    batch.cache.states[:, 1, batch.slots] = 0
    kernels.write(batch, 1, key, value)
    for found, wanted in zip(batch.cache.read(1, batch.slots), expected, strict=True):
        # The interpreter cuts bfloat16 off instead of rounding it.
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=8e-3 if kind[1] == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_mixed_step_equals_the_reference(kernels: Any, device: str) -> None:
    batch = random_batch((torch.float32, None), [9, 5, 12, 7], [1, 1, 6, 1], 2, 16, 4, device)
    query, key, value = new_states(batch, 4, 16, torch.float32)
    out = triton_attention.attend_triton(query, key, value, 0, batch, 0.3)
    torch.testing.assert_close(out, by_reference(batch, query, 0), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_dtype", ["model", pytest.param("int8", marks=pytest.mark.slow)])
def test_an_engine_on_these_kernels_answers_as_the_reference(
    kernels: Any, device: str, kv_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=1, hidden_size=32, ffn_hidden_size=32, kv_channels=16, num_attention_heads=2, padded_vocab_size=64,
        multi_query_attention=True, multi_query_group_num=1, seq_length=64,
    )  # fmt: skip
    model = ChatGLMForConditionalGeneration(config).eval().to(device)
    monkeypatch.setitem(fillings._table, "triton", replace(fillings._table["triton"], unsuited=None))
    prompts, params = [[1, 2], list(range(12)), [7] * 5], SamplingParams(temperature=0, max_tokens=4)
    expected = Engine(model, EngineConfig(attention="reference", kv_dtype=kv_dtype)).generate(prompts, params)
    for settings in ({"max_batch_tokens": 7}, {"run_ahead": True, "block_size": 4}):
        engine = Engine(model, EngineConfig(attention="triton", kv_dtype=kv_dtype, **settings))
        assert engine.generate(prompts, params) == expected


def test_without_a_gpu_it_is_refused_with_the_reason() -> None:
    cache = KVCache(1, 4, 1, 8, torch.float32, torch.device("cpu"))
    assert fillings.choose("auto", cache).name != "triton"
    with pytest.raises(RequestError, match="'triton' cannot be used here: it needs an NVIDIA GPU"):
        fillings.choose("triton", cache)


def test_the_gathered_form_equals_the_reference() -> None:
    for kind in KINDS:
        batch = random_batch(kind, [1, 5, 33], [1] * 3, 2, 16, 4, "cpu")
        query, key, value = new_states(batch, 4, 16, kind[0])
        out = decode_gathered(query, key, value, 1, batch, 0.3)
        torch.testing.assert_close(out, by_reference(batch, query, 1), **bound(kind))
