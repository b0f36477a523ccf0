"""The engine answers for the first generation as generate() does, whatever else is in the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from first_folder import first_folder
from golden_v1 import golden_file

import chatglm
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.model.v1.network import ChatGLM1ForConditionalGeneration

TEXTS = ["你好", "请问今天天气怎么样", "a", "b c d e f g h i j k", ""]
NEW = 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return chatglm.load(first_folder(tmp_path_factory.mktemp("chatglm-6b")))


def greedy(**options: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, **options)


def generated(model: Any, ids: list[int]) -> list[int]:
    found = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=NEW, eos_token_id=None)
    return found[0, len(ids) :].tolist()


def answers(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[list[int]]:
    requests = [engine.submit(ids, params) for ids in prompts]
    return [list(engine.wait(request).token_ids) for request in requests]


def test_batched_is_single_is_generate(pair: Any) -> None:
    model, tokenizer = pair
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    alone = [generated(model, ids) for ids in prompts]
    engine = Engine(model, EngineConfig(num_tokens=None))
    assert answers(engine, prompts, greedy()) == alone
    assert answers(engine, prompts, greedy()) == alone  # nothing of the first time is taken for the second
    assert engine.stats().prefix_tokens_hit == 0


def test_a_small_cache_and_drafts(pair: Any) -> None:
    model, tokenizer = pair
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    alone = [generated(model, ids) for ids in prompts]
    per_token = 2 * 4 * model.config.num_layers * model.config.hidden_size
    tight = Engine(model, EngineConfig(kv_memory=per_token * 48, block_size=4))
    assert answers(tight, prompts, greedy()) == alone
    assert tight.stats().preemptions > 0
    assert answers(Engine(model), prompts, greedy(draft="lookup")) == alone


@pytest.mark.parametrize("name", ["e_prefix", "e_prefix_proj"])
def test_with_a_prefix(name: str) -> None:
    model = ChatGLM1ForConditionalGeneration.from_pretrained(golden_file(f"numerics/{name}")).eval()
    prompts = [[5, 7, 9, 141, 144], [11, 140, 12, 144], [20, 21, 22, 23, 24, 25, 141, 144]]
    assert answers(Engine(model), prompts, greedy()) == [generated(model, ids) for ids in prompts]


def test_sampled_answers_repeat_by_their_seed(pair: Any) -> None:
    model, tokenizer = pair
    ids = tokenizer("你好")["input_ids"]
    params = SamplingParams(seed=7, max_tokens=NEW, ignore_eos=True)
    engine = Engine(model)
    assert answers(engine, [ids, ids], params)[1] == answers(engine, [ids], params)[0]


def test_quantized(pair: Any, tmp_path: Path) -> None:
    model, tokenizer = chatglm.load(first_folder(tmp_path), quantize="int8")
    ids = tokenizer("你好")["input_ids"]
    assert answers(Engine(model), [ids], greedy()) == [generated(model, ids)]
