"""`perplexity`: what it must equal, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import chatglm
from chatglm.errors import ConfigError, GenerationError
from chatglm.evaluate.perplexity import Perplexity, perplexity, read_text, report

TEXT = "The capital of France is Paris. 你好，世界！ What is your name? 我叫小明。\n" * 6


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return chatglm.load(dtype="float32", device="cpu")


def direct_losses(model: Any, tokenizer: Any, ids: list[int]) -> torch.Tensor:
    """-log p of each id behind `[gMASK] sop`, the plain way."""
    row = torch.tensor([[*tokenizer.get_prefix_tokens(), *ids]])
    with torch.inference_mode():
        logits = model(input_ids=row).logits[0, 1:-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="none")


def test_one_window_is_the_mean_loss_of_the_model(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    ids = tokenizer.encode_text(TEXT, plain=True)
    found = perplexity(model, tokenizer, TEXT)
    row = torch.tensor([[*tokenizer.get_prefix_tokens(), *ids]])
    labels = row.clone()
    labels[0, :2] = -100
    with torch.inference_mode():
        loss = float(model(input_ids=row, labels=labels).loss)
    assert found.tokens == len(ids)
    assert found.windows == 1
    assert found.value == pytest.approx(math.exp(loss), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(loss * len(ids) / math.log(2) / len(TEXT.encode()), rel=1e-5)


@pytest.mark.parametrize(("context", "stride"), [(34, None), (34, 32), (34, 16), (50, 7), (34, 1), (2048, 1)])
def test_each_token_is_scored_once_with_the_context_of_its_window(
    loaded: tuple[Any, Any], context: int, stride: int | None
) -> None:
    model, tokenizer = loaded
    text = TEXT[:160]
    ids = tokenizer.encode_text(text, plain=True)
    room, scored, losses = context - 2, 0, []
    start = 0
    while scored < len(ids):
        stop = min(start + room, len(ids))
        losses.append(direct_losses(model, tokenizer, ids[start:stop])[scored - start :])
        scored, start = stop, start + (stride or room)
    seen: list[tuple[int, int]] = []
    found = perplexity(model, tokenizer, text, context, stride, progress=lambda *step: seen.append(step))
    assert found.tokens == len(ids) == sum(map(len, losses))
    assert found.windows == len(losses) == len(seen)
    assert seen[-1] == (len(ids), len(ids))
    assert found.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def test_markers_in_a_text_are_text(loaded: tuple[Any, Any]) -> None:
    assert perplexity(*loaded, "<|user|>").tokens > 1


@pytest.mark.parametrize(
    ("text", "context", "stride", "words"),
    [
        ("", 64, None, "no tokens"),
        ("a", 2, None, "context is 2; it must be from 3 to 2048"),
        ("a", 4096, None, "context is 4096"),
        ("a", 64, 0, "stride is 0; it must be from 1 to 62"),
        ("a", 64, 63, "stride is 63"),
    ],
)
def test_what_is_refused(loaded: tuple[Any, Any], text: str, context: int, stride: int | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        perplexity(*loaded, text, context, stride)


def test_a_model_that_overflows_is_an_error(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    weight = model.transformer.encoder.final_layernorm.weight
    before = weight.detach().clone()
    try:
        weight.data[0] = float("nan")
        with pytest.raises(GenerationError, match="NaN"):
            perplexity(model, tokenizer, "hello")
    finally:
        weight.data.copy_(before)


def test_text_files(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("你好", encoding="utf-8")
    assert read_text(file) == "你好"
    for content, words in ((b"\xff\xfe", "not UTF-8"), (b" \n", "is empty")):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            read_text(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_text(tmp_path / "none.txt")


def test_the_report_tells_the_numbers() -> None:
    assert Perplexity(1e4, 1, 1, 1).value == math.inf
    text = report("a.txt", Perplexity(math.log(8), 1000, 1500, 3))
    assert "perplexity     8.0000" in text
    assert "bits per byte  2.0000" in text
    assert "1,000 tokens" in text
