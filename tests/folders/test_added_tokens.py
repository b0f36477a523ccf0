"""Tokens that people add to a vocabulary travel with every conversion, or the conversion refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, AutoModel, AutoTokenizer

from chatglm.errors import CheckpointError
from chatglm.folders.convert import SIDE_FILE, convert
from chatglm.folders.gguf import to_gguf
from chatglm.folders.quantize import quantize_folder
from chatglm.loading import demo_folder
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

TEXTS = (
    "<think>2 + 2</think> 4", "a <think> b", "<think><think>", " <think>\n", "好<think>好", "<tool>x",
    "rethink <tool> y", "thinking", "nothing of it", "好的", "他的书的 的的", "<think>的",
)  # fmt: skip
ADDED: dict[str, list[Any]] = {
    "plain": ["<think>", "</think>"],
    "special": [AddedToken("<think>", special=True, normalized=False), AddedToken("<tool>", special=True)],
    "both": ["<think>", AddedToken("</think>", special=True), AddedToken("<tool>", normalized=False)],
    "a piece": ["的", "<think>"],
    "a special piece": [AddedToken("的", special=True)],
    "with blanks": [AddedToken("<think>", lstrip=True, rstrip=True)],
    "whole words": [AddedToken("think", single_word=True)],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the demo's vocabulary and 4 more rows."""
    folder = tmp_path_factory.mktemp("small")
    shape = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64, "kv_channels": 8, "num_attention_heads": 4}
    size = ChatGLMConfig.from_pretrained(demo_folder()).padded_vocab_size + 4
    config = ChatGLMConfig(**shape, padded_vocab_size=size, multi_query_attention=True)
    ChatGLMForConditionalGeneration(config).save_pretrained(folder)
    return folder


def with_added(small: Path, target: Path, kind: str) -> tuple[Path, Any]:
    folder = Path(shutil.copytree(small, target))
    tokenizer = AutoTokenizer.from_pretrained(demo_folder())
    tokenizer.add_tokens(ADDED[kind])
    tokenizer.save_pretrained(folder)
    return folder, AutoTokenizer.from_pretrained(folder)


def same(tokenizer: Any, other: Any) -> None:
    for text in TEXTS:
        assert other.encode(text) == tokenizer.encode(text), text
    for token in tokenizer.added_tokens.values():
        assert other.decode(other.convert_tokens_to_ids(str(token))).strip() == str(token)


@pytest.mark.parametrize("kind", ADDED)
def test_they_travel_to_stock_glm_and_back(kind: str, small: Path, tmp_path: Path) -> None:
    folder, tokenizer = with_added(small, tmp_path / "official", kind)
    assert len(tokenizer.added_tokens) == len(ADDED[kind])
    glm = convert(folder, tmp_path / "glm", to="glm")
    same(tokenizer, AutoTokenizer.from_pretrained(glm))
    same(tokenizer, AutoTokenizer.from_pretrained(convert(glm, tmp_path / "back", to="official")))
    (glm / SIDE_FILE).unlink()
    (glm / "config.json").write_text(json.dumps(json.loads((glm / "config.json").read_text())))
    same(tokenizer, AutoTokenizer.from_pretrained(convert(glm, tmp_path / "without", to="official")))


@pytest.mark.parametrize("kind", ["plain", "both"])
def test_they_travel_through_saving_and_quantizing(kind: str, small: Path, tmp_path: Path) -> None:
    folder, tokenizer = with_added(small, tmp_path / "official", kind)
    same(tokenizer, AutoTokenizer.from_pretrained(quantize_folder(folder, tmp_path / "int8", "int8")))
    model = AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoModel.from_pretrained(tmp_path / "saved").config.padded_vocab_size == len(tokenizer)
    same(tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved"))


@pytest.mark.parametrize("kind", ADDED)
def test_they_travel_to_gguf_or_are_refused(kind: str, small: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder, tokenizer = with_added(small, tmp_path / "official", kind)
    if kind in ("with blanks", "whole words"):
        with pytest.raises(CheckpointError, match=r"'<?think>?'.* has (lstrip|single_word) set"):
            to_gguf(folder, tmp_path / "a.gguf")
        assert not (tmp_path / "a.gguf").exists()
        return
    fields = gguf.GGUFReader(to_gguf(folder, tmp_path / "a.gguf")).fields
    spellings, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    for token_id, token in tokenizer.added_tokens.items():
        assert (spellings[token_id], types[token_id]) == (str(token), 3 if token.special else 4)
    assert types[len(tokenizer) :] == [5] * (len(types) - len(tokenizer))


@pytest.mark.parametrize("to", ["glm", "gguf"])
@pytest.mark.parametrize(
    ("damage", "words"), [("gap", "has id 30[0-9]{2}; the next free"), ("too many", "tokens|rows")]
)
def test_what_no_other_format_can_hold_is_refused(
    damage: str, words: str, to: Any, small: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    folder, tokenizer = with_added(small, tmp_path / "official", "plain")
    if damage == "gap":
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        config["added_tokens_decoder"].pop(str(min(tokenizer.added_tokens)))
        path.write_text(json.dumps(config))
        (folder / "added_tokens.json").unlink()
    else:
        tokenizer.add_tokens([f"<more {i}>" for i in range(9)])
        tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=words):
        to_gguf(folder, tmp_path / "a.gguf") if to == "gguf" else convert(folder, tmp_path / "glm", to="glm")
    assert not (tmp_path / "glm").exists()
