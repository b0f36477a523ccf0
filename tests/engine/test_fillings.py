"""The table of paged attentions: open, checked, and equal on what they compute."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from chatglm.engine import fillings
from chatglm.engine.attention import attend_reference, each_alone
from chatglm.engine.cache import PagedBatch
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.fillings import register_filling
from chatglm.engine.request import SamplingParams
from chatglm.errors import RequestError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

PROMPTS = [list(range(3, 3 + length)) for length in (2, 17, 40)]
GREEDY = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=2, hidden_size=32, ffn_hidden_size=48, kv_channels=8, num_attention_heads=4, padded_vocab_size=96,
        multi_query_attention=True, multi_query_group_num=2, seq_length=256,
    )  # fmt: skip
    return ChatGLMForConditionalGeneration(config).eval()


@pytest.fixture
def table() -> Iterator[dict[str, Any]]:
    before = dict(fillings._table)
    yield fillings._table
    fillings._table.clear()
    fillings._table.update(before)


def by_tables(query: Any, key: Any, value: Any, layer: int, batch: PagedBatch, scaling: float) -> torch.Tensor:
    """Attention from the tensors of the batch alone, as a kernel would do it; they must say what `sequences` says."""
    batch.cache.write(layer, batch.slots, key, value)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    starts = batch.query_starts.tolist()
    assert batch.block_tables.dtype == batch.lengths.dtype == batch.query_starts.dtype == torch.int32
    assert batch.block_tables.stride(1) == 1
    for index, length in enumerate(batch.lengths.tolist()):
        positions = torch.arange(length)
        slots = batch.block_tables[index].long()[positions // batch.block_size] * batch.block_size
        parts = [batch.cache.read(layer, slots + positions % batch.block_size)]
        rows = slice(starts[index], starts[index + 1])
        out[rows] = attend_reference(query[rows], parts, scaling)
    return out


@pytest.mark.parametrize("config", [{}, {"max_batch_tokens": 7, "block_size": 4}, {"kv_memory": 16384}], ids=str)
def test_a_filling_of_others_is_chosen_and_sees_the_whole_step(model: Any, table: Any, config: Any) -> None:
    expected = [answer.token_ids for answer in Engine(model, EngineConfig(attention="sdpa")).generate(PROMPTS, GREEDY)]
    register_filling("tables", by_tables, rank=9)
    engine = Engine(model, EngineConfig(**config))
    assert engine.runner.filling.name == "tables"
    assert [answer.token_ids for answer in engine.generate(PROMPTS, GREEDY)] == expected


def test_a_filling_is_replaced_under_its_name(model: Any, table: Any) -> None:
    calls = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(arguments[3])
        return by_tables(*arguments)

    for attend in (by_tables, counted):
        register_filling("tables", attend)
        Engine(model, EngineConfig(attention="tables")).generate([[1, 2]], SamplingParams(max_tokens=1))
    assert calls == [0, 1]


def test_one_that_is_not_suited_is_passed_over_and_says_why(model: Any, table: Any) -> None:
    register_filling("never", by_tables, unsuited=lambda cache, prefix: f"no kernel for {cache.stored}", rank=99)
    assert Engine(model).runner.filling.name != "never"
    with pytest.raises(RequestError, match=r"'never' cannot be used here: no kernel for torch.int8"):
        Engine(model, EngineConfig(attention="never", kv_dtype="int8"))


def test_unknown_names_are_refused(model: Any, table: Any) -> None:
    with pytest.raises(RequestError, match="'flash'; it must be auto or one of .*reference, sdpa"):
        Engine(model, EngineConfig(attention="flash"))
    with pytest.raises(RequestError, match="cannot be named 'auto'"):
        register_filling("auto", by_tables)
    register_filling("steps", each_alone(attend_reference))
    with pytest.raises(RequestError, match="'steps' has no form for static_decode"):
        Engine(model, EngineConfig(attention="steps", static_decode=True))


@pytest.mark.parametrize(
    "wrong",
    [{"kv_dtype": "float8"}, {"num_threads": 0}, {"num_threads": 1.5}, {"num_threads": True}, {"num_threads": 1025},
     {"kv_memory": 0}, {"kv_memory": "8GB"}, {"num_tokens": 0}, {"block_size": True},
     {"compile": True, "static_decode": False},
     {"run_ahead": True, "static_decode": False}],
    ids=str,
)  # fmt: skip
def test_bad_settings_name_themselves(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        EngineConfig(**wrong)


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
@pytest.mark.parametrize(
    ("kv_dtype", "bound"), [("float32", 1e-6), ("float16", 2e-3), ("bfloat16", 2e-2), ("int8", 5e-2)]
)
def test_a_cache_of_another_dtype_stays_within_its_rounding(
    model: Any, attention: str, kv_dtype: str, bound: float
) -> None:
    exact = Engine(model, EngineConfig(attention="reference")).score(PROMPTS[2], PROMPTS[1]).token_logprobs
    engine = Engine(model, EngineConfig(kv_dtype=kv_dtype, attention=attention, block_size=4, max_batch_tokens=9))
    assert engine.runner.cache.states.dtype == getattr(torch, kv_dtype)
    close = engine.score(PROMPTS[2], PROMPTS[1]).token_logprobs
    worst = max(abs(a - b) for a, b in zip(exact, close, strict=True))
    assert worst < bound
    if kv_dtype != "float32":
        assert worst > 0, "the cache rounds nothing"


def test_the_pool_is_sized_by_what_it_stores(model: Any) -> None:
    sizes = {
        kv_dtype: Engine(model, EngineConfig(kv_dtype=kv_dtype, kv_memory=2**16)).stats().cache_tokens
        for kv_dtype in ("model", "float16", "int8")
    }
    assert sizes == {"model": 2**16 // 256, "float16": 2**16 // 128, "int8": 2**16 // 96 // 16 * 16}
