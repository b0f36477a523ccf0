"""The engine with attention="native": however requests are cut, batched, thrown out or guessed, the same tokens."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from native_levels import LEVELS, needs_kernels, using

from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.errors import RequestError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

pytestmark = needs_kernels
GREEDY = SamplingParams(temperature=0, max_tokens=7)
SEEDED = SamplingParams(seed=6, temperature=0.9, top_p=0.9, repetition_penalty=1.1, max_tokens=7)


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {
        "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 80, "kv_channels": 16, "num_attention_heads": 4,
        "padded_vocab_size": 300, "multi_query_attention": True, "multi_query_group_num": 2, "seq_length": 2048,
        "eos_token_id": None,
    }  # fmt: skip
    return ChatGLMForConditionalGeneration(ChatGLMConfig(**(sizes | options))).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return make()


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 290, (length,), generator=generator).tolist() for length in (1, 70, 41)]


@pytest.fixture(scope="module")
def expected(model: Any) -> dict[bool, list[tuple[int, ...]]]:
    """Every prompt alone, through the reference."""
    config = EngineConfig(attention="reference", prefix_cache=False, max_batch_tokens=4096)
    return {
        params is GREEDY: [Engine(model, config).generate([prompt], params)[0].token_ids for prompt in prompts()]
        for params in (GREEDY, SEEDED)
    }


CONFIGS = {
    "batched": {},
    "chunked": {"max_batch_tokens": 7},
    "blocks of 1": {"block_size": 1},
    "thrown out": {"block_size": 4, "kv_memory": 2 * 2 * 2 * 16 * 4 * 128},
    "one at a time": {"max_running": 1},
}


@pytest.mark.parametrize(
    ("name", "params", "draft"),
    [
        *((name, SEEDED, None) for name in CONFIGS),
        ("batched", GREEDY, None),
        ("batched", GREEDY, "lookup"),
        ("chunked", SEEDED, "model"),
    ],
    ids=lambda value: "greedy" if value is GREEDY else "seeded" if value is SEEDED else str(value),
)
def test_the_tokens_are_the_same(model: Any, expected: Any, name: str, params: SamplingParams, draft: Any) -> None:
    engine = Engine(model, EngineConfig(attention="native", **CONFIGS[name]), draft_model=model)
    assert engine.runner.filling.name == "native"
    for _ in range(2):  # the second time with the prefix cache
        answers = engine.generate(prompts(), replace(params, draft=draft))
        assert [answer.token_ids for answer in answers] == expected[params is GREEDY]
    engine.check_integrity()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_scores_are_those_of_the_reference(model: Any, level: str, dtype: Any) -> None:
    prompt, continuation = prompts()[1], prompts()[2]
    with using(level):
        found, wanted = (
            Engine(model, EngineConfig(attention=name, kv_dtype=dtype)).score(prompt, continuation).token_logprobs
            for name in ("native", "reference")
        )
    # INT8: a tie rounded to the other side moves a score a little.
    assert found == pytest.approx(wanted, abs=2e-2 if dtype == "int8" else 1e-4)


def test_it_is_what_auto_takes_where_it_can(model: Any) -> None:
    assert Engine(model).runner.filling.name == "native"
    prefixed = make(pre_seq_len=4)
    assert Engine(prefixed).runner.filling.name == "sdpa"
    with pytest.raises(RequestError, match="know no P-Tuning prefix"):
        Engine(prefixed, EngineConfig(attention="native"))
    with pytest.raises(RequestError, match="12 channels"):
        Engine(make(kv_channels=12), EngineConfig(attention="native"))
