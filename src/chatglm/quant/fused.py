"""Whole decoder layers through one native call, put on a model from outside.

A fused layer is the network's own block whose `forward` asks first: are these plain weights on the CPU, a step of the
engine, no gradient, no adapter, no hook? Then one call does norm, attention and MLP. Otherwise the block's own code
runs, and both give the same numbers up to float32 rounding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chatglm import native
from chatglm.quant.kernels.ops import native_weight
from chatglm.quant.packed import PackedLinear


def fuse(model: nn.Module) -> int:
    """Give every decoder layer that can have it the fused forward -> how many. Idempotent."""
    if not native.available():
        return 0
    count = 0
    for layer in model.modules():
        if _fits(layer):
            layer.__dict__["forward"] = FusedForward(layer)
            count += 1
    return count


def unfuse(model: nn.Module) -> None:
    """Take the fused forward off again."""
    for layer in model.modules():
        if isinstance(layer.__dict__.get("forward"), FusedForward):
            del layer.__dict__["forward"]


class FusedForward:
    """The forward of one decoder layer."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.plain: Callable[..., Any] = type(layer).forward.__get__(layer)
        self.modules: tuple[nn.Module, ...] = ()
        self.native: native.Layer | None = None
        self._key: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusedForward":
        copied = memo.get(id(self.layer))
        return FusedForward(self.layer if copied is None else copied)

    def __call__(self, hidden_states: Tensor, prefix: Tensor | None = None, **kwargs: Any) -> Any:
        paged = kwargs.get("paged")
        if paged is None or prefix is not None or not self._ready(hidden_states, paged):
            return self.plain(hidden_states, prefix, **kwargs)
        stream = hidden_states[0].float()
        if stream.data_ptr() == hidden_states.data_ptr():
            stream = stream.clone()
        cosines, sines = (table[0, 0].float().contiguous() for table in kwargs["position_embeddings"])
        assert self.native is not None
        cache, batch = native.structures(paged, self.layer.self_attention.layer_idx)
        native.layer_forward(self.native, cache, batch, cosines, sines, stream)
        return stream.to(hidden_states.dtype)[None], None

    def _ready(self, hidden_states: Tensor, paged: Any) -> bool:
        if torch.is_grad_enabled() and hidden_states.requires_grad:
            return False
        if not hidden_states.is_cpu or hidden_states.shape[0] != 1 or not native.readable(paged):
            return False
        linears = linears_of(self.layer)
        if not all(isinstance(linear, PackedLinear) for linear in linears):
            return False  # an adapter was put around one
        key = tuple(linear.packed_values.data_ptr() for linear in linears)
        if key != self._key:  # the weights were moved or replaced since the kernels were told where they are
            self._build(linears)
            self._key = key
        return not any(module._forward_hooks or module._forward_pre_hooks for module in self.modules)

    def _build(self, linears: list[Any]) -> None:
        layer, attention = self.layer, self.layer.self_attention
        config = attention.config
        self.modules = tuple(layer.modules())
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        query_key_value, dense, up, down = (_as_native(linear) for linear in linears)
        first, second = (norm.weight.detach().float().contiguous() for norm in norms)
        self.native = native.Layer(
            (query_key_value, dense, up, down),
            (first, second),
            norm_eps=norms[0].eps,
            rotary_dim=config.rotary_dim,
            hidden=config.hidden_size,
            heads=attention.num_heads,
            groups=attention.num_groups,
            head_dim=attention.head_dim,
            scaling=attention.scaling,
        )


def _as_native(linear: PackedLinear) -> native.Weight:
    scheme = linear.scheme
    return native_weight(
        linear.packed_values,
        linear.packed_scales,
        linear.packed_zeros,
        linear.bias,
        linear.out_features,
        linear.in_features,
        scheme.bits,
        scheme.group_size,
    )


def linears_of(layer: Any) -> list[Any]:
    """The four linears of a decoder layer, in the order of the kernels; empty for other modules."""
    attention, mlp = getattr(layer, "self_attention", None), getattr(layer, "mlp", None)
    if attention is None or mlp is None or not hasattr(mlp, "dense_h_to_4h"):
        return []
    return [attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h]


def _fits(layer: Any) -> bool:
    linears = linears_of(layer)
    if not linears or not all(isinstance(linear, PackedLinear) and linear.packed_values.is_cpu for linear in linears):
        return False
    attention = layer.self_attention
    config = attention.config
    return bool(
        config.rmsnorm
        and config.multi_query_attention
        and not config.apply_residual_connection_post_layernorm
        and not config.fp32_residual_connection
        and attention.head_dim % 16 == 0
        and config.hidden_size % 16 == 0
    )
