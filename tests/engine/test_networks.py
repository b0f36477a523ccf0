"""The engine drives every form of the network: stock GLM, P-Tuning v2, long contexts, half precision."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from transformers import GlmForCausalLM

from chatglm.engine.cache import KVCache
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.folders.convert import to_glm
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

SHAPE = {
    "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4,
    "padded_vocab_size": 96, "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True,
    "seq_length": 256,
}  # fmt: skip
GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)


def network(**overrides: Any) -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    return ChatGLMForConditionalGeneration(ChatGLMConfig(**(SHAPE | overrides))).eval()


def generated(model: Any, prompt: list[int]) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": None, "pad_token_id": 0}
    return tuple(model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist())


PROMPTS = [list(range(3, 3 + length)) for length in (2, 17, 40)]


@pytest.mark.parametrize("overrides", [{}, {"pre_seq_len": 5}, {"pre_seq_len": 5, "prefix_projection": True},
                                       {"multi_query_attention": False}, {"rmsnorm": False}], ids=str)  # fmt: skip
@pytest.mark.parametrize("config", [EngineConfig(), EngineConfig(attention="reference", max_batch_tokens=7)], ids=str)
def test_engine_equals_generate(overrides: dict[str, Any], config: EngineConfig) -> None:
    model = network(**overrides)
    answers = Engine(model, config).generate(PROMPTS, GREEDY)
    assert [answer.token_ids for answer in answers] == [generated(model, prompt) for prompt in PROMPTS]


def test_stock_glm_gives_the_same_tokens(tmp_path: Path) -> None:
    source = golden_file("generation") / "model"
    to_glm(source, tmp_path)
    stock = GlmForCausalLM.from_pretrained(tmp_path).eval()
    ours = ChatGLMForConditionalGeneration.from_pretrained(source)
    answers = Engine(stock).generate(PROMPTS, GREEDY)
    assert [answer.token_ids for answer in answers] == [a.token_ids for a in Engine(ours).generate(PROMPTS, GREEDY)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    model = network()
    exact = Engine(model).score(PROMPTS[2], PROMPTS[1]).token_logprobs
    close = Engine(network().to(dtype)).score(PROMPTS[2], PROMPTS[1]).token_logprobs
    assert max(abs(a - b) for a, b in zip(exact, close, strict=True)) < 0.05


def test_memory_of_the_6b_shapes() -> None:
    """28,672 bytes a token in half precision: the published figure."""
    assert KVCache.bytes_per_token(28, 2, 128, torch.float16) == 28_672
    assert KVCache.bytes_per_token(28, 2, 128, torch.float16, quantized=True) == 28 * 2 * 2 * 132


@pytest.mark.slow
def test_a_prompt_of_128k_tokens_runs() -> None:
    model = network(num_layers=1, seq_length=131072, rope_ratio=500, rope_ratio_meaning="base")
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 90, (131_000,), generator=generator).tolist()
    engine = Engine(model, EngineConfig(max_batch_tokens=2048, block_size=64))
    request = engine.submit(prompt, SamplingParams(temperature=0, max_tokens=4))
    assert len(engine.wait(request).token_ids) == 4
    again = engine.submit([*prompt, 5], SamplingParams(temperature=0, max_tokens=2))
    engine.wait(again)
    assert again.num_cached > 130_900
