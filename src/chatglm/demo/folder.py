"""Write the tiny model as an official model folder, so that it loads through the same code as the 6B weights."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from chatglm.demo.encoding import Encoder
from chatglm.demo.recipe import SHAPE, VOCAB_MULTIPLE
from chatglm.model.config import ChatGLMConfig
from chatglm.model.layout import INV_FREQ, official_inv_freq
from chatglm.model.model_tensors import official_sources
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.saving import Source, save_tensors

VOCABULARY_FILE = "tokenizer.model"
RECIPE_FILE = "RECIPE.json"


def make_config(encoder: Encoder) -> ChatGLMConfig:
    """The tiny shape over this vocabulary, its size rounded up."""
    rows = -(-encoder.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    return ChatGLMConfig(**SHAPE, padded_vocab_size=rows)


def save_folder(folder: Path, model: ChatGLMForConditionalGeneration, vocabulary: Path, record: dict[str, Any]) -> None:
    """Write config, tokenizer, bfloat16 weights and `RECIPE.json`, the record of how they were made."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(vocabulary)
    _write_json(folder / "config.json", official_config(model.config))
    _write_json(folder / "generation_config.json", generation_config(encoder))
    _write_json(folder / "tokenizer_config.json", tokenizer_config())
    if vocabulary.resolve() != (folder / VOCABULARY_FILE).resolve():
        shutil.copyfile(vocabulary, folder / VOCABULARY_FILE)
    save_tensors(folder, official_tensors(model))
    _write_json(folder / RECIPE_FILE, record | {"tokenizer_sha256": sha256(folder / VOCABULARY_FILE)})


def official_tensors(model: ChatGLMForConditionalGeneration) -> dict[str, Source]:
    """Every tensor of an official file, in bfloat16."""
    state = {name: value.detach().cpu().to(torch.bfloat16) for name, value in model.state_dict().items()}
    return official_sources(model, state | {INV_FREQ: official_inv_freq(model.config, torch.bfloat16)})


def official_config(config: ChatGLMConfig) -> dict[str, Any]:
    """The keys of an official `config.json`."""
    keys = (
        "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels", "num_attention_heads",
        "seq_length", "hidden_dropout", "attention_dropout", "layernorm_epsilon", "rmsnorm", "post_layer_norm",
        "apply_residual_connection_post_layernorm", "add_bias_linear", "add_qkv_bias", "bias_dropout_fusion",
        "multi_query_attention", "multi_query_group_num", "apply_query_key_layer_scaling", "attention_softmax_in_fp32",
        "fp32_residual_connection", "original_rope", "use_cache", "tie_word_embeddings", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    head = {"_name_or_path": "tiny-glm", "model_type": "chatglm", "architectures": ["ChatGLMModel"]}
    return head | {key: getattr(config, key) for key in keys} | {"torch_dtype": "bfloat16"}


def generation_config(encoder: Encoder) -> dict[str, Any]:
    """Stop at the end marker and wherever somebody else has to speak, as ChatGLM3 does."""
    stops = [2, encoder.specials["<|user|>"], encoder.specials["<|observation|>"]]
    return {"eos_token_id": stops, "pad_token_id": 0, "do_sample": True, "temperature": 0.8, "top_p": 0.8}


def tokenizer_config() -> dict[str, Any]:
    """What an official `tokenizer_config.json` says, without the remote code."""
    return {
        "tokenizer_class": "ChatGLMTokenizer",
        "version": "chatglm3",
        "remove_space": False,
        "do_lower_case": False,
        "model_max_length": SHAPE["seq_length"],
        "padding_side": "left",
    }


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
