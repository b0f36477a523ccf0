"""The configuration of stock GLM (`GlmForCausalLM` of transformers) for an official one, and back.

Numerically the same network: interleaved rotation of half of each head, two key/value groups, SwiGLU with the gate
first, RMSNorm. This file knows configurations; `export.py` moves the tensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from chatglm.errors import ConfigError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.tokenizer_version import find_version
from chatglm.model.vocabulary import Vocabulary


def check_expressible(config: ChatGLMConfig) -> None:
    """Raise ConfigError, naming the key, for a configuration stock GLM has no place for."""
    wanted: dict[str, Any] = {
        "rmsnorm": True,
        "post_layer_norm": True,
        "apply_residual_connection_post_layernorm": False,
        "add_bias_linear": False,
        "fp32_residual_connection": False,
        "pre_seq_len": None,
        "rope_precision": "float32",
    }
    for key, value in wanted.items():
        if (found := getattr(config, key)) != value:
            raise ConfigError(
                f"stock GLM cannot express {key}={json.dumps(found)}; only {key}={json.dumps(value)} can be exported"
            )


def glm_config(config: ChatGLMConfig, dtype: torch.dtype, eos: list[int]) -> dict[str, Any]:
    """The `config.json` of the stock GLM form."""
    base, divisor = config.rope_base_and_divisor()
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": 0.5}
    if divisor != 1.0:
        rope |= {"rope_type": "linear", "factor": divisor}
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "attention_bias": config.add_qkv_bias,
        "attention_dropout": config.attention_dropout,
        "dtype": str(dtype).removeprefix("torch."),
        "eos_token_id": eos,
        "head_dim": config.kv_channels,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.ffn_hidden_size,
        "max_position_embeddings": config.seq_length,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_token_id,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": config.layernorm_epsilon,
        "rope_parameters": rope,
        "rope_theta": base,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
        "vocab_size": config.padded_vocab_size,
    }


def check_stock(stock: Mapping[str, Any]) -> None:
    """Raise ConfigError for what is no stock GLM configuration."""
    kind = stock.get("model_type")
    if kind == "chatglm":
        raise ConfigError("the folder is already in the official layout; there is nothing to convert")
    if kind != "glm":
        raise ConfigError(f"model_type is {kind!r}; only stock GLM folders ('glm') can be converted")


def official_config(stock: Mapping[str, Any]) -> dict[str, Any]:
    """The official `config.json` for a stock GLM configuration.

    Raises:
        ConfigError: not a GLM configuration, or one the official network cannot compute.
    """
    check_stock(stock)
    rope: dict[str, Any] = stock.get("rope_parameters") or stock.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    rotated = rope.get("partial_rotary_factor", stock.get("partial_rotary_factor", 0.5))
    base = float(rope.get("rope_theta", stock.get("rope_theta", 10000.0)))
    if kind not in ("default", "linear") or rotated != 0.5 or (kind == "linear" and base != 10000.0):
        raise ConfigError(
            f"the official layout cannot express rope {kind!r} of base {base:g} over {rotated:g} of each head; "
            "it knows half of each head, with another base or with linear scaling of base 10000"
        )
    ratio = float(rope["factor"]) if kind == "linear" else base / 10000.0
    groups = stock.get("num_key_value_heads") or stock["num_attention_heads"]
    result = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": stock.get("attention_bias", True),
        "attention_dropout": stock.get("attention_dropout", 0.0),
        "eos_token_id": 2,
        "ffn_hidden_size": stock["intermediate_size"],
        "hidden_size": stock["hidden_size"],
        "kv_channels": stock.get("head_dim") or stock["hidden_size"] // stock["num_attention_heads"],
        "layernorm_epsilon": stock["rms_norm_eps"],
        "multi_query_attention": True,
        "multi_query_group_num": groups,
        "num_attention_heads": stock["num_attention_heads"],
        "num_layers": stock["num_hidden_layers"],
        "original_rope": True,
        "pad_token_id": stock.get("pad_token_id"),
        "padded_vocab_size": stock["vocab_size"],
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": stock["max_position_embeddings"],
        "tie_word_embeddings": False,
        "torch_dtype": stock.get("dtype") or stock.get("torch_dtype"),
        "use_cache": True,
    }
    if ratio != 1.0:
        result |= {"rope_ratio": ratio, "rope_ratio_meaning": "position" if kind == "linear" else "base"}
    return result


def has_roles(folder: Path, config: ChatGLMConfig) -> bool:
    """Whether the vocabulary has role tokens: ChatGLM3's has, ChatGLM2's has not."""
    if config.rope_ratio_meaning is not None:
        return config.rope_ratio_meaning == "base"
    return find_version(folder, folder.resolve().name) == "chatglm3"


def end_ids(folder: Path, config: ChatGLMConfig) -> list[int]:
    """Ids that end an answer: `</s>`, and the roles `<|user|>` and `<|observation|>` where the vocabulary has them."""
    first = config.eos_token_id
    ids = [first] if isinstance(first, int) else list(first or [])
    pieces = _num_pieces(folder, config)
    if pieces is not None and has_roles(folder, config):
        ids += [pieces + 6, pieces + 8]  # after the pieces: [MASK] [gMASK] [sMASK] sop eop, then the four roles
    return [index for index in dict.fromkeys(ids) if index < config.padded_vocab_size]


def _num_pieces(folder: Path, config: ChatGLMConfig) -> int | None:
    if (folder / "tokenizer.model").is_file():
        return Vocabulary.from_file(folder / "tokenizer.model").sp_size
    return 64789 if config.padded_vocab_size == 65024 else None  # the official vocabulary
