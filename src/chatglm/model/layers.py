"""One layer of ChatGLM2 / ChatGLM3: norm, rotary embedding, grouped attention, SwiGLU, under the official names.

Shapes: B batch, S new tokens, T tokens in the cache plus new ones, P tokens of a P-Tuning prefix, H query heads,
G key/value heads (groups), D channels per head (`kv_channels`), R rotated channels (D / 2), F feed-forward size.
Source of the arithmetic: the official ChatGLM3-6B model file; checked against data it produced (tests/golden).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from chatglm.model.plain_config import ConfigFields

# (module, query, key, value, mask, dropout=, scaling=, ...) -> (context [B, S, H, D], weights where it has them)
Attention = Callable[..., tuple[Tensor, Tensor | None]]


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + eps) * weight, all in float32 with one rounding at the end.

    The norm is arXiv:1910.07467. Stock GLM rounds before the product with the weight; in half precision they differ.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * (wide * scale)).to(hidden_states.dtype)


def make_norm(config: "ConfigFields") -> nn.Module:
    norm = RMSNorm if config.rmsnorm else nn.LayerNorm
    return norm(config.hidden_size, eps=config.layernorm_epsilon)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary angles; holds no state, so no cast of the model can coarsen it."""

    def __init__(self, config: "ConfigFields") -> None:
        super().__init__()
        self.rotary_dim = config.rotary_dim
        self.base, self.divisor = config.rope_base_and_divisor()
        self.in_model_dtype = config.rope_precision == "model"

    def forward(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Tables for `position_ids` [B, S] -> two tensors [B, 1, S, R / 2], rounded to `dtype` at the end."""
        working = dtype if self.in_model_dtype else torch.float32
        steps = torch.arange(0, self.rotary_dim, 2, device=position_ids.device, dtype=working)
        theta = 1.0 / (self.base ** (steps / self.rotary_dim))
        positions = position_ids.to(working) / self.divisor
        angles = (positions[:, None, :, None] * theta).float()
        return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the interleaved pairs (2i, 2i+1) of the first R channels of `states` [B, heads, S, D]; the rest pass."""
    rotary_dim = 2 * cos.shape[-1]
    rotated, passed = states[..., :rotary_dim], states[..., rotary_dim:]
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return torch.cat((pairs.flatten(-2), passed), dim=-1)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The readable reference: softmax(q k^T * scaling + mask) v with the softmax in float32.

    query [B, H, S, D], key and value [B, G, T, D], mask additive [B, 1, S, T] -> ([B, S, H, D], weights [B, H, S, T]).
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class SelfAttention(nn.Module):
    """Grouped attention with one fused projection.

    Rows of `query_key_value`: with multi-query attention all queries, then all keys, then all values; without it,
    query, key and value of head 0, then of head 1, and so on.
    """

    def __init__(self, config: "ConfigFields", layer_idx: int) -> None:
        super().__init__()
        assert config.kv_channels is not None
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.kv_channels
        self.num_heads, self.num_groups = config.num_attention_heads, config.num_key_value_heads
        self.num_key_value_groups = self.num_heads // self.num_groups  # query heads per group, the transformers name
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        qkv_bias = config.add_bias_linear or config.add_qkv_bias
        self.query_key_value = nn.Linear(config.hidden_size, config.qkv_size, bias=qkv_bias)
        self.dense = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=config.add_bias_linear)

    def split_heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, (H + 2G) D] -> query [B, H, S, D], key [B, G, S, D], value [B, G, S, D]."""
        if self.config.multi_query_attention:
            heads = mixed.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            query, key, value = heads.split((self.num_heads, self.num_groups, self.num_groups), dim=1)
        else:
            heads = mixed.unflatten(-1, (self.num_heads, 3 * self.head_dim)).transpose(1, 2)
            query, key, value = heads.chunk(3, dim=-1)
        return query, key, value

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: "Cache | None" = None,
        prefix: Tensor | None = None,
        attention: str | Attention | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """`prefix` [2 (key, value), B, G, P, D] goes in front of the keys and values, not rotated. `attention`: for
        this call, another function than the configured one, or its registered name."""
        query, key, value = self.split_heads(self.query_key_value(hidden_states))
        query, key = apply_rotary(query, *position_embeddings), apply_rotary(key, *position_embeddings)
        if prefix is not None:
            key, value = torch.cat((prefix[0], key), dim=2), torch.cat((prefix[1], value), dim=2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = attention if callable(attention) else self.named_attention(attention)
        context, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.dense(context.flatten(-2)), weights

    def named_attention(self, name: str | None) -> Attention:
        """The attention function of a registered name; None: the configured one. Who knows names overrides this."""
        raise NotImplementedError(f"attention {name!r}: this network knows no names; it must be given the function")


class MLP(nn.Module):
    """SwiGLU (arXiv:2002.05202): the first F rows of `dense_h_to_4h` are the gate."""

    def __init__(self, config: "ConfigFields") -> None:
        super().__init__()
        bias = config.add_bias_linear
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 2 * config.ffn_hidden_size, bias=bias)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.dense_h_to_4h(hidden_states).chunk(2, dim=-1)
        return self.dense_4h_to_h(nn.functional.silu(gate) * up)  # type: ignore[no-any-return]


class GLMBlock(nn.Module):
    """One pre-norm layer; with `apply_residual_connection_post_layernorm` the residual is the normed value."""

    attention_class: type[SelfAttention] = SelfAttention

    def __init__(self, config: "ConfigFields", layer_idx: int) -> None:
        super().__init__()
        self.residual_after_norm = config.apply_residual_connection_post_layernorm
        self.wide_residual = config.fp32_residual_connection
        self.dropout = config.hidden_dropout
        self.input_layernorm = make_norm(config)
        self.self_attention = self.attention_class(config, layer_idx)
        self.post_attention_layernorm = make_norm(config)
        self.mlp = MLP(config)

    def forward(
        self, hidden_states: Tensor, prefix: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """[B, S, hidden] -> ([B, S, hidden], attention weights where the attention function gives them).

        What needs gradients is positional: re-entrant gradient checkpointing sees no others.
        """
        normed = self._norm(self.input_layernorm, hidden_states)
        attended, weights = self.self_attention(normed, prefix=prefix, **kwargs)
        hidden_states = self._add(normed if self.residual_after_norm else hidden_states, attended)
        normed = self._norm(self.post_attention_layernorm, hidden_states)
        hidden_states = self._add(normed if self.residual_after_norm else hidden_states, self.mlp(normed))
        return hidden_states, weights

    def _norm(self, norm: nn.Module, hidden_states: Tensor) -> Tensor:
        if not self.wide_residual:
            return norm(hidden_states)  # type: ignore[no-any-return]
        # A float32 stream between half-precision modules: norm in the stream's precision, hand on the modules' own.
        wide = torch.func.functional_call(norm, {k: v.float() for k, v in norm.named_parameters()}, (hidden_states,))
        return wide.to(next(norm.parameters()).dtype)  # type: ignore[no-any-return]

    def _add(self, residual: Tensor, update: Tensor) -> Tensor:
        return residual + nn.functional.dropout(update, p=self.dropout, training=self.training)
