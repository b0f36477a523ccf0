"""The official layout of the first generation: which tensors a configuration asks for, and what they are called."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatglm.model.storage import Shape

if TYPE_CHECKING:
    from chatglm.model.v1.config import ChatGLM1Config

EMBEDDING = "transformer.word_embeddings.weight"
OUTPUT = "lm_head.weight"
LAYERS = "transformer.layers"
_INV_FREQ = ".rotary_emb.inv_freq"


def expected_shapes(config: "ChatGLM1Config") -> dict[str, Shape]:
    """Name and shape of every tensor of an official file for this configuration, in the order of the network."""
    shapes = _matrix("transformer.word_embeddings", config.vocab_size, config.hidden_size, _end_bits(config))
    for layer in range(config.num_layers):
        shapes |= _layer_shapes(config, f"{LAYERS}.{layer}")
    shapes |= _norm_shapes(config, "transformer.final_layernorm")
    if config.pre_seq_len is not None:
        shapes |= prefix_shapes(config, config.pre_seq_len, config.prefix_projection)
    return shapes | _matrix("lm_head", config.vocab_size, config.hidden_size, _end_bits(config))


def prefix_shapes(config: "ChatGLM1Config", pre_seq_len: int, projection: bool) -> dict[str, Shape]:
    """Name and shape of every tensor of a P-Tuning v2 prefix encoder with `pre_seq_len` rows. Unlike those of the
    later generations, the rows before a projection are as wide as the network."""
    name, hidden = "transformer.prefix_encoder", config.hidden_size
    size = config.num_layers * 2 * hidden
    if not projection:
        return {f"{name}.embedding.weight": (pre_seq_len, size)}
    shapes: dict[str, Shape] = {f"{name}.embedding.weight": (pre_seq_len, hidden)}
    return shapes | _linear(f"{name}.trans.0", hidden, hidden) | _linear(f"{name}.trans.2", size, hidden)


def computed_names(config: "ChatGLM1Config") -> set[str]:
    """Tensors a folder may lack, because they follow from others: the tables of each layer, and a tied output layer."""
    names = {f"{LAYERS}.{layer}.attention{_INV_FREQ}" for layer in range(config.num_layers)}
    return names | ({"lm_head."} if config.tie_word_embeddings else set())


def is_inv_freq(name: str) -> bool:
    """Whether a tensor is the table of a layer's rotary embedding."""
    return name.endswith(_INV_FREQ)


def official_inv_freq(rotary_dim: int, device: torch.device | str | None = None) -> Tensor:
    """[rotary_dim / 2], computed in float32 and rounded to float16, in whatever dtype the model is: so is the official
    code, and the weights were trained with it."""
    steps = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim
    return (1.0 / 10000.0**steps).half()


def _end_bits(config: "ChatGLM1Config") -> int:
    """Bits of the embedding and the output layer; 0: full."""
    return config.quantization_bit if config.quantization_embeddings else 0


def _layer_shapes(config: "ChatGLM1Config", layer: str) -> dict[str, Shape]:
    hidden, inner, bits = config.hidden_size, config.inner_hidden_size, config.quantization_bit
    shapes = _norm_shapes(config, f"{layer}.input_layernorm")
    shapes[f"{layer}.attention{_INV_FREQ}"] = (config.rotary_dim // 2,)
    shapes |= _linear(f"{layer}.attention.query_key_value", 3 * hidden, hidden, bits)
    shapes |= _linear(f"{layer}.attention.dense", hidden, hidden, bits)
    shapes |= _norm_shapes(config, f"{layer}.post_attention_layernorm")
    shapes |= _linear(f"{layer}.mlp.dense_h_to_4h", inner, hidden, bits)
    return shapes | _linear(f"{layer}.mlp.dense_4h_to_h", hidden, inner, bits)


def _norm_shapes(config: "ChatGLM1Config", name: str) -> dict[str, Shape]:
    return {f"{name}.weight": (config.hidden_size,), f"{name}.bias": (config.hidden_size,)}


def _linear(name: str, rows: int, columns: int, bits: int = 0) -> dict[str, Shape]:
    return _matrix(name, rows, columns, bits) | {f"{name}.bias": (rows,)}


def _matrix(name: str, rows: int, columns: int, bits: int) -> dict[str, Shape]:
    if not bits:
        return {f"{name}.weight": (rows, columns)}
    return {f"{name}.weight": (rows, columns * bits // 8), f"{name}.weight_scale": (rows,)}
