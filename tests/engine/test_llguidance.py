"""Grammars of llguidance as constraints: what comes out is in the language, with drafts and in batches too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

llguidance = pytest.importorskip("llguidance")
SIZE = 288  # rows of the output layer; the tokenizer has fewer


class Grammar:
    """A matcher as a constraint."""

    executor = llguidance.LLExecutor(2)

    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher

    def accept(self, ids: Sequence[int]) -> None:
        if not self.matcher.consume_tokens(list(ids)):
            raise ValueError(self.matcher.get_error() or f"tokens {list(ids)} do not fit the grammar")

    def fill(self, row: torch.Tensor) -> None:
        self.matcher.unsafe_compute_mask_ptr(row.data_ptr(), 4 * row.numel())

    def rollback(self, n: int) -> None:
        self.matcher.rollback(n)

    @classmethod
    def fill_many(cls, asked: Sequence[tuple["Grammar", int]], rows: torch.Tensor) -> None:
        matchers = [(constraint.matcher, place) for constraint, place in asked]
        cls.executor.unsafe_compute_mask_ptr(matchers, rows.data_ptr(), 4 * rows.shape[1], rows.shape[0])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Single bytes, some words, and a token for the end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "r"), ("tr", "u"), ("tru", "e"), ('"', ":"), ("n", "a"), ("na", "m"), ("nam", "e")]
    words = [*letters, *(left + right for left, right in merges)]
    made = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return llguidance.LLTokenizer(str(path), n_vocab=SIZE, eos_token=tokenizer.token_to_id("<end>"))


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=1, hidden_size=16, ffn_hidden_size=16, kv_channels=4, num_attention_heads=4, padded_vocab_size=SIZE,
        multi_query_attention=True, multi_query_group_num=2, seq_length=256,
    )  # fmt: skip
    return ChatGLMForConditionalGeneration(config).eval()


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ab", "abc", "你好"]}, "ok": {"type": "boolean"}, "n": {"enum": [1, 22, 333]}},
    "required": ["name", "ok", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("options", [{}, {"run_ahead": True}], ids=str)
def test_what_comes_out_is_in_the_language(options: Any, tokenizer: Tokenizer, grammars: Any, model: Any) -> None:
    """From random weights, so that nothing of it would come without the grammar."""
    grammar = llguidance.LLMatcher.grammar_from_json_schema(SCHEMA, overrides={"whitespace_flexible": False})
    template = llguidance.LLMatcher(grammars, grammar)
    assert not template.is_error(), template.get_error()
    end = tokenizer.token_to_id("<end>")
    engine = Engine(model, EngineConfig(stop_token_ids=(end,), **options))
    wishes = [
        SamplingParams(seed=seed, max_tokens=120, constraint=lambda: Grammar(template.deep_copy()), draft=draft)
        for seed in range(2)
        for draft in (None, "lookup")
    ]
    prompts = [tokenizer.encode('{"name":"abc","ok":true,"n":333}').ids, [1, 2, 3]]
    requests = [engine.submit(prompt, params) for params in wishes for prompt in prompts]
    free = engine.submit([1, 2, 3], SamplingParams(temperature=0, max_tokens=8))
    for request in requests:
        answer = engine.wait(request)
        assert answer.finish_reason == "stop", answer.error
        value = json.loads(tokenizer.decode(list(answer.token_ids)))
        assert set(value) == {"name", "ok", "n"}
        assert value["name"] in ("ab", "abc", "你好")
    assert engine.stats().drafts_accepted > 0
    assert engine.wait(free) == Engine(model).generate([[1, 2, 3]], SamplingParams(temperature=0, max_tokens=8))[0]
    by_request = [tuple(request.output_ids) for request in requests]
    assert by_request[0::4] + by_request[1::4] == by_request[2::4] + by_request[3::4], "drafts change nothing"


def test_where_the_grammar_is_broken_the_request_is_refused(grammars: Any, model: Any, tmp_path: Path) -> None:
    """What makes the constraint is called when the request is handed in, so its error goes to who did that."""

    def make() -> Grammar:
        matcher = llguidance.LLMatcher(grammars, "start: /[/")
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return Grammar(matcher)

    with pytest.raises(ValueError, match=r"(?i)regex|parse|grammar"):
        Engine(model).submit([1], SamplingParams(constraint=make))
