"""The stack of decoder layers through one native call, put on a model from outside.

A fused stack is the network's own module whose `forward` asks first: are these packed weights on the CPU, a step of the
engine, no gradient, no adapter, no hook? Then one call runs all layers. Otherwise the module's own code runs, and both
give the same numbers up to float32 rounding.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chatglm import native
from chatglm.quant.kernels.ops import native_weight
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_weight import mark


def fuse(model: nn.Module) -> bool:
    """Give the stack of decoder layers the fused forward -> whether it could have it. Idempotent."""
    if not native.available():
        return False
    stacks = [module for module in model.modules() if _fits(module)]
    for stack in stacks:
        if not isinstance(stack.__dict__.get("forward"), FusedForward):
            stack.__dict__["forward"] = FusedForward(stack)
    return bool(stacks)


def unfuse(model: nn.Module) -> None:
    """Take the fused forward off again."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), FusedForward):
            del module.__dict__["forward"]


class FusedForward:
    """The forward of a stack of decoder layers."""

    def __init__(self, stack: Any) -> None:
        self.stack = stack
        self.plain: Callable[..., Any] = type(stack).forward.__get__(stack)
        self._places: list[tuple[dict[str, Any], str, Any]] = []
        self._hooks: list[dict[int, Any]] = []
        self._attributes: list[dict[str, Any]] = []
        self._linears: list[Any] = []
        self._tensors: list[Tensor] = []
        self._marks: list[tuple[int, int]] = []
        self.layers: native.Layers | None = None
        self.caches: native.Caches | None = None
        self._states: Any = None  # a weak reference: an engine that is gone must not live on here

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusedForward":
        return FusedForward(memo.get(id(self.stack), self.stack))

    def __reduce__(self) -> Any:
        return FusedForward, (self.stack,)

    def __call__(
        self,
        hidden_states: Tensor,
        prefixes: Tensor | None = None,
        keep_hidden: bool = False,
        keep_weights: bool = False,
        **kwargs: Any,
    ) -> Any:
        paged = kwargs.get("paged")
        asked_for_more = prefixes is not None or keep_hidden or keep_weights
        if paged is None or asked_for_more or not self._ready(hidden_states, paged):
            return self.plain(hidden_states, prefixes, keep_hidden, keep_weights, **kwargs)
        if self._states is None or self._states() is not paged.cache.states:
            layers = range(len(self.stack.layers))
            self.caches = native.Caches([native.cache_of(paged.cache, layer, paged.block_size) for layer in layers])
            self._states = weakref.ref(paged.cache.states)
        assert self.layers is not None
        assert self.caches is not None
        stream = hidden_states[0].to(torch.float32, copy=True).contiguous()
        cosines, sines = (table[0, 0].float().contiguous() for table in kwargs["position_embeddings"])
        native.layers_forward(self.layers, self.caches, native.batch_of(paged), cosines, sines, stream)
        return self.stack.final_norm(stream.to(hidden_states.dtype)[None]), None, None

    def _ready(self, hidden_states: Tensor, paged: Any) -> bool:
        if torch.is_grad_enabled() and hidden_states.requires_grad:
            return False
        if not hidden_states.is_cpu or hidden_states.shape[0] != 1 or not native.readable(paged):
            return False
        if not self._unchanged():  # replaced, moved or written since the kernels were told where things are
            linears = [linear for layer in self.stack.layers for linear in linears_of(layer)]
            if not all(isinstance(linear, PackedLinear) for linear in linears):
                return False  # an adapter was put around one
            self._build()
        return not (
            any(linear.precise for linear in self._linears)
            or any(self._hooks)
            or any("forward" in attributes for attributes in self._attributes)
        )

    def _unchanged(self) -> bool:
        """Whether all modules and tensors are those of `_build`: some thousand look-ups in dictionaries, 0.4 ms."""
        places = all(holder.get(name) is held for holder, name, held in self._places)
        return places and bool(self._marks) and self._marks == [mark(tensor) for tensor in self._tensors]

    def _build(self) -> None:
        layers = self.stack.layers
        modules = [module for layer in layers for module in layer.modules()]
        holders = [layers._modules, *(d for m in modules for d in (m._modules, m._parameters, m._buffers))]
        self._places = [(holder, name, held) for holder in holders for name, held in holder.items()]
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._attributes = [module.__dict__ for module in modules]
        self._linears = [linear for layer in layers for linear in linears_of(layer)]
        self._tensors = [tensor for layer in layers for tensor in _tensors(layer)]
        self.layers = native.Layers([native_layer(layer) for layer in layers])
        self._marks = [mark(tensor) for tensor in self._tensors]


def native_layer(layer: Any) -> native.Layer:
    """One decoder layer as the kernels take it."""
    attention, config = layer.self_attention, layer.self_attention.config
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    query_key_value, dense, up, down = (_as_native(linear) for linear in linears_of(layer))
    first, second = (norm.weight.detach().float().contiguous() for norm in norms)
    return native.Layer(
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


def linears_of(layer: Any) -> list[Any]:
    """The four linears of a decoder layer, in the order of the kernels; empty for other modules."""
    attention, mlp = getattr(layer, "self_attention", None), getattr(layer, "mlp", None)
    if attention is None or mlp is None or not hasattr(mlp, "dense_h_to_4h"):
        return []
    return [attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h]


def _tensors(layer: Any) -> list[Tensor]:
    linears = linears_of(layer)
    found = [layer.input_layernorm.weight, layer.post_attention_layernorm.weight]
    return found + [t for linear in linears for t in (linear.packed_values, linear.bias) if t is not None]


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


def _fits(stack: Any) -> bool:
    layers = getattr(stack, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(stack, "final_norm") or len(layers) == 0:
        return False
    return all(_layer_fits(layer) for layer in layers)


def _layer_fits(layer: Any) -> bool:
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
