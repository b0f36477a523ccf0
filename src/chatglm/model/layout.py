"""The official layout: which tensors a configuration asks for, and what they are called. Names and shapes only."""

from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

import torch
from torch import Tensor

from chatglm.model.storage import Shape, smaller_weights
from chatglm.model.v1 import layout as v1

if TYPE_CHECKING:
    from chatglm.model.config import ChatGLMConfig
    from chatglm.model.v1.config import ChatGLM1Config

EMBEDDING = "transformer.embedding.word_embeddings.weight"
INV_FREQ = "transformer.rotary_pos_emb.inv_freq"
LAYERS = "transformer.encoder.layers"
FINAL_NORM = "transformer.encoder.final_layernorm"
OUTPUT = "transformer.output_layer.weight"
PREFIX = "transformer.prefix_encoder."
CLASSIFIER = "classifier_head."
SCALE = "_scale"  # `.weight_scale` beside a row-wise `.weight`
PACKED = ".packed_"  # `.packed_values` and others in place of a `.weight`


AnyConfig: TypeAlias = "ChatGLMConfig | ChatGLM1Config"


def is_first(config: AnyConfig) -> "TypeGuard[ChatGLM1Config]":
    """Whether a configuration is that of ChatGLM-6B."""
    return config.first_generation


def expected_shapes(config: AnyConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of an official file for this configuration, in file order.

    Includes `rotary_pos_emb.inv_freq`, the prefix encoder when `pre_seq_len` is set, and row-wise storage when
    `quantization_bit` is. A packed folder holds other tensors for the layers its scheme is about.
    """
    shapes = v1.expected_shapes(config) if is_first(config) else _expected_shapes(cast("ChatGLMConfig", config))
    return smaller_weights().stored_shapes(shapes, config) if is_packed(config) else shapes


def _expected_shapes(config: "ChatGLMConfig") -> dict[str, Shape]:
    vocab = (config.padded_vocab_size, config.hidden_size)
    shapes: dict[str, Shape] = {EMBEDDING: vocab, INV_FREQ: (config.rotary_dim // 2,)}
    for layer in range(config.num_layers):
        shapes.update(_layer_shapes(config, f"{LAYERS}.{layer}"))
    if config.post_layer_norm:
        shapes.update(_norm_shapes(config, FINAL_NORM))
    shapes[OUTPUT] = vocab
    if config.pre_seq_len is not None:
        shapes.update(prefix_shapes(config, config.pre_seq_len, config.prefix_projection))
    return shapes


def computed_names(config: AnyConfig) -> set[str]:
    """Tensors (or the beginnings of their names) a folder may lack, because they follow from others."""
    if is_first(config):
        return v1.computed_names(config)
    return {INV_FREQ, OUTPUT} if config.tie_word_embeddings else {INV_FREQ}


def output_name(config: AnyConfig) -> str:
    """The weight of the output layer."""
    return v1.OUTPUT if is_first(config) else OUTPUT


def embedding_name(config: AnyConfig) -> str:
    """The weight of the word embedding."""
    return v1.EMBEDDING if is_first(config) else EMBEDDING


def is_table(name: str) -> bool:
    """Whether a tensor is the table of a rotary embedding, which is computed and no parameter."""
    return name == INV_FREQ or v1.is_inv_freq(name)


def prefix_shapes(config: AnyConfig, pre_seq_len: int, projection: bool) -> dict[str, Shape]:
    """Name and shape of every tensor of a P-Tuning v2 prefix encoder with `pre_seq_len` rows."""
    if is_first(config):
        return v1.prefix_shapes(config, pre_seq_len, projection)
    assert config.kv_channels is not None
    size = config.num_layers * 2 * config.num_key_value_heads * config.kv_channels
    shapes: dict[str, Shape] = {f"{PREFIX}embedding.weight": (pre_seq_len, size)}
    if projection:
        shapes[f"{PREFIX}trans.0.weight"] = (config.hidden_size, size)
        shapes[f"{PREFIX}trans.0.bias"] = (config.hidden_size,)
        shapes[f"{PREFIX}trans.2.weight"] = (size, config.hidden_size)
        shapes[f"{PREFIX}trans.2.bias"] = (size,)
    return shapes


def is_packed(config: AnyConfig) -> bool:
    """Whether a configuration is that of a folder with a `quantization_config`, ours or another program's."""
    return getattr(config, "quantization_config", None) is not None


def is_storage(name: str) -> bool:
    """Whether a tensor is part of a quantized weight: its dtype is that of the storage, not of the model."""
    return name.endswith(SCALE) or PACKED in name


def canonical_name(name: str) -> str:
    """The official name of a tensor, also when the file was saved from the inner model without `transformer.`."""
    return name if name.startswith(("transformer.", "lm_head.", CLASSIFIER)) else f"transformer.{name}"


def official_inv_freq(config: "ChatGLMConfig", dtype: torch.dtype = torch.float32) -> Tensor:
    """[rotary_dim / 2]; always of base 10000, whatever `rope_ratio` says: the official code applies the ratio later."""
    steps = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    return (1.0 / (10000.0**steps)).to(dtype)


def _layer_shapes(config: "ChatGLMConfig", layer: str) -> dict[str, Shape]:
    assert config.kv_channels is not None
    hidden, bias = config.hidden_size, config.add_bias_linear
    context = config.num_attention_heads * config.kv_channels
    qkv_bias = bias or config.add_qkv_bias
    shapes = _norm_shapes(config, f"{layer}.input_layernorm")
    attention, mlp = f"{layer}.self_attention", f"{layer}.mlp"
    shapes |= _linear_shapes(config, f"{attention}.query_key_value", config.qkv_size, hidden, qkv_bias)
    shapes |= _linear_shapes(config, f"{attention}.dense", hidden, context, bias)
    shapes |= _norm_shapes(config, f"{layer}.post_attention_layernorm")
    shapes |= _linear_shapes(config, f"{mlp}.dense_h_to_4h", 2 * config.ffn_hidden_size, hidden, bias)
    shapes |= _linear_shapes(config, f"{mlp}.dense_4h_to_h", hidden, config.ffn_hidden_size, bias)
    return shapes


def _norm_shapes(config: "ChatGLMConfig", name: str) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight": (config.hidden_size,)}
    if not config.rmsnorm:
        shapes[f"{name}.bias"] = (config.hidden_size,)
    return shapes


def _linear_shapes(config: "ChatGLMConfig", name: str, rows: int, columns: int, bias: bool) -> dict[str, Shape]:
    bits = config.quantization_bit
    shapes: dict[str, Shape] = {f"{name}.weight": (rows, columns * bits // 8 if bits else columns)}
    if bits:
        shapes[f"{name}.weight{SCALE}"] = (rows,)
    if bias:
        shapes[f"{name}.bias"] = (rows,)
    return shapes
