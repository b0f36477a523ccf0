"""The stack of decoder layers through one native call.

A fused stack is the network's own module whose `forward` asks first: are these packed weights on the CPU, a step of the
engine, no gradient, no adapter, no hook? Then one call runs all layers. Otherwise the module's own code runs, and both
give the same numbers up to float32 rounding.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chatglm import native
from chatglm.quant.kernels.ops import native_weight
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_weight import PackedWeight
from chatglm.quant.watch import Watch


class FusedForward:
    """The forward of a stack of decoder layers."""

    def __init__(self, stack: Any) -> None:
        self.stack = stack
        self.plain: Callable[..., Any] = type(stack).forward.__get__(stack)
        self._children: dict[str, Any] = {}
        self._watches: list[Watch] = []  # one for each layer
        self.layers: native.Layers | None = None
        self._known: tuple[Any, native.Caches | None] = (None, None)

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
        by_layer = kwargs.get("by_layer", False)  # something is added to the outputs of single layers
        asked_for_more = prefixes is not None or keep_hidden or keep_weights or by_layer
        caches = None if paged is None or asked_for_more else self._takes(hidden_states, paged)
        if caches is None:
            return self.plain(hidden_states, prefixes, keep_hidden, keep_weights, **kwargs)
        stream = hidden_states[0].to(torch.float32, copy=True).contiguous()
        cosines, sines = (table[0, 0].float().contiguous() for table in kwargs["position_embeddings"])
        self.run(stream, cosines, sines, paged, caches)
        return self.stack.final_norm(stream.to(hidden_states.dtype)[None]), None, None

    def run(self, stream: Tensor, cosines: Tensor, sines: Tensor, paged: Any, caches: native.Caches) -> None:
        """All layers, in place; see `native.layers_forward`."""
        assert self.layers is not None
        native.layers_forward(self.layers, caches, native.batch_of(paged), cosines, sines, stream)

    def ready(self, paged: Any, turn: int | None = None) -> native.Caches | None:
        """The caches of a step for `run`, or None where the kernels cannot run its layers; they are told where things
        are, if that has changed.

        With a number, one layer is looked at, the next one with the next number: to look at all of 28 takes half a
        millisecond.
        """
        watches = self._watches if turn is None else self._watches[turn % max(1, len(self._watches)) :][:1]
        if not self._unchanged(watches):
            linears = [linear for layer in self.stack.layers for linear in linears_of(layer)]
            here = all(tensor.is_cpu for tensor in (*self.stack.parameters(), *self.stack.buffers()))
            if not here or not all(isinstance(linear, PackedLinear) for linear in linears):
                return None  # an adapter was put around one, or the model has left, or a part of it
            self._build()
            watches = self._watches
        return self._caches_of(paged) if all(watch.undisturbed() for watch in watches) else None

    def _takes(self, hidden_states: Tensor, paged: Any) -> native.Caches | None:
        if torch.is_grad_enabled() and hidden_states.requires_grad:
            return None
        return self.ready(paged) if hidden_states.is_cpu and hidden_states.shape[0] == 1 else None

    def _caches_of(self, paged: Any) -> native.Caches | None:
        """The cache of a step for the kernels; the last one is remembered, with a weak reference to its memory: an
        engine that is gone must not live on here."""
        states, caches = self._known
        if paged.prefix is None and states is not None and states() is paged.cache.states:
            return caches
        if not native.readable(paged):
            return None
        layers = range(len(self.stack.layers))
        caches = native.Caches([native.cache_of(paged.cache, layer, paged.block_size) for layer in layers])
        self._known = weakref.ref(paged.cache.states), caches
        return caches

    def _unchanged(self, watches: Sequence[Watch]) -> bool:
        return len(self._children) == len(self._watches) > 0 and all(watch.unchanged() for watch in watches)

    def _build(self) -> None:
        layers = self.stack.layers
        self._children, self._known = layers._modules, (None, None)
        above = (self.stack._modules, "layers", layers)
        self._watches = [
            Watch(list(layer.modules()), _tensors(layer), [above, (self._children, name, layer)])
            for name, layer in self._children.items()
        ]
        self.layers = native.Layers([native_layer(layer) for layer in layers])


def native_layer(layer: Any) -> native.Layer:
    """One decoder layer as the kernels take it."""
    attention, config = layer.self_attention, layer.self_attention.config
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    query_key_value, dense, up, down = (as_native(linear) for linear in linears_of(layer))
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


def as_native(layer: PackedWeight) -> native.Weight:
    """A packed layer as the kernels take it; holds on to the memory, whatever the layer's tensors are made to show."""
    scheme = layer.scheme
    values, scales = layer.packed_values.detach(), layer.packed_scales.detach()
    zeros = None if layer.packed_zeros is None else layer.packed_zeros.detach()
    return native_weight(values, scales, zeros, layer.bias, layer.rows, layer.columns, scheme.bits, scheme.group_size)


def stack_fits(stack: Any) -> bool:
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
