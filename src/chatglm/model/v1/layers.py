"""One layer of ChatGLM-6B: LayerNorm, two-dimensional rotary positions, attention, GELU, under the official names.

Shapes: B batch, S new tokens, P prefix tokens, H heads, D channels per head, R channels one row of positions rotates.
Source of the arithmetic: the official ChatGLM-6B model file; checked against data it produced (tests/golden/v1).
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from chatglm.model.layers import Attention, eager_attention
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.v1.layout import official_inv_freq

# The official code takes the 28 layers of the 6B model, whatever a configuration says.
ALPHA = (2 * 28) ** 0.5


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the dtype of its weights, which official float16 files hold in float32."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states.to(self.weight.dtype)).to(hidden_states.dtype)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary angles of both rows of positions; holds no state."""

    def __init__(self, config: ChatGLM1Config) -> None:
        super().__init__()
        self.rotary_dim = config.rotary_dim
        self.in_model_dtype = config.rope_precision == "model"

    def forward(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Tables for `position_ids` [B, rows, S] (or [B, S]: one row) -> two tensors [B, 1, S, rows, R / 2]."""
        working = dtype if self.in_model_dtype else torch.float32
        rows = (position_ids if position_ids.dim() == 3 else position_ids[:, None]).transpose(1, 2)
        angles = rows[:, None, ..., None].to(working) * official_inv_freq(self.rotary_dim, rows.device).to(working)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each half of the heads (or the whole) of `states` [B, H, S, D] by its own row of positions: channel i
    pairs with channel i + R / 2."""
    first, second = states.unflatten(-1, (cos.shape[-2], 2, cos.shape[-1])).unbind(-2)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-2).flatten(-3)


class SelfAttention(nn.Module):
    """Attention with one fused projection: query, key and value of head 0, then of head 1, and so on."""

    def __init__(self, config: ChatGLM1Config, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim, self.num_heads = config.head_dim, config.num_attention_heads
        self.num_key_value_groups = 1  # query heads per key, the transformers name
        self.scaling = self.head_dim**-0.5
        self.is_causal = False  # the mask says everything
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        prefix: Tensor | None = None,
        attention: str | Attention | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """`prefix` [2 (key, value), B, H, P, D] goes in front of the keys and values, not rotated."""
        heads = self.query_key_value(hidden_states).unflatten(-1, (self.num_heads, 3 * self.head_dim)).transpose(1, 2)
        query, key, value = heads.chunk(3, dim=-1)
        query, key = apply_rotary(query, *position_embeddings), apply_rotary(key, *position_embeddings)
        if prefix is not None:
            key, value = torch.cat((prefix[0], key), dim=2), torch.cat((prefix[1], value), dim=2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if not callable(attention):
            name = attention or self.config._attn_implementation
            attention = cast(Attention, ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention))
        context, weights = attention(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, is_causal=False, **kwargs
        )
        return self.dense(context.flatten(-2)), weights


class MLP(nn.Module):
    """Two projections with GELU in its tanh form between them."""

    def __init__(self, config: ChatGLM1Config) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        inner = functional.gelu(self.dense_h_to_4h(hidden_states), approximate="tanh")
        return self.dense_4h_to_h(inner)  # type: ignore[no-any-return]


class GLM1Block(GradientCheckpointingLayer):
    """One layer. Both residuals start from the normed value, times `ALPHA`."""

    def __init__(self, config: ChatGLM1Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = SelfAttention(config, layer_idx)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self, hidden_states: Tensor, prefix: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """[B, S, hidden] -> ([B, S, hidden], attention weights where the attention function gives them).

        What needs gradients is positional: re-entrant gradient checkpointing sees no others.
        """
        normed = self.input_layernorm(hidden_states)
        attended, weights = self.attention(normed, prefix=prefix, **kwargs)
        normed = self.post_attention_layernorm(normed * ALPHA + attended)
        return normed * ALPHA + self.mlp(normed), weights


class PrefixEncoder(nn.Module):
    """P-Tuning v2: learned keys and values in front of those of every layer, not rotated."""

    def __init__(self, config: ChatGLM1Config) -> None:
        super().__init__()
        assert config.pre_seq_len is not None
        self.pre_seq_len = config.pre_seq_len
        self.shape = (config.num_layers, 2, config.num_attention_heads, config.head_dim)
        hidden, size = config.hidden_size, config.num_layers * 2 * config.hidden_size
        self.embedding = nn.Embedding(self.pre_seq_len, hidden if config.prefix_projection else size)
        self.trans: nn.Module | None = None
        if config.prefix_projection:
            self.trans = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, size))
        self.dropout = nn.Dropout(0.1)  # fixed in the official code

    def forward(self, batch: int, dtype: torch.dtype) -> Tensor:
        """-> [layers, 2 (key, value), B, H, P, D] in `dtype`."""
        rows = self.embedding.weight if self.trans is None else self.trans(self.embedding.weight)
        rows = rows.unflatten(-1, self.shape).unsqueeze(0).expand(batch, -1, -1, -1, -1, -1)
        return self.dropout(rows).permute(2, 3, 0, 4, 1, 5).to(dtype)  # type: ignore[no-any-return]
