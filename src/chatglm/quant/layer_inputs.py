"""What the layers of a model get while it reads: one decoder layer at a time, without knowing the model.

Official module names; hidden states are the first argument of a layer and the first part of its output.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.errors import ConfigError
from chatglm.quant.linear import QUANTIZED_LINEARS, is_full


class LayerInputs:
    """What a layer gets, for each sequence: hidden states, and the other arguments, which all layers share."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self.others: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def runs(self, layer: nn.Module) -> Iterator[Callable[[], Any]]:
        """A call of the layer for each sequence."""
        for states, (more, options) in zip(self.states, self.others, strict=True):
            yield partial(layer, states, *more, **options)


class _Stop(Exception):
    """Ends a forward pass once its input is known."""


def decoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The decoder layers by name, in order.

    Raises:
        ConfigError: there are none, or their linears are smaller already.
    """
    kinds = [(name, module) for name, module in model.named_modules() if is_quantized_kind(name)]
    if not kinds:
        raise ConfigError(
            f"{type(model).__name__} has no linear layer named {', '.join(QUANTIZED_LINEARS)}: nothing to quantize"
        )
    for name, module in kinds:
        if not is_full(module):
            raise ConfigError(f"{name} is a {type(module).__name__}; calibrating needs a model with full weights")
    stack = parent_of(kinds[0][0])
    while not isinstance(model.get_submodule(stack), nn.ModuleList):
        if not stack:
            raise ConfigError(f"{kinds[0][0]} lies in no list of layers; calibrating needs a model built of layers")
        stack = parent_of(stack)
    return {f"{stack}.{index}": layer for index, layer in enumerate(model.get_submodule(stack).children())}


@torch.no_grad()
def first_inputs(model: nn.Module, layer: nn.Module, token_ids: Sequence[Tensor]) -> LayerInputs:
    """What the first layer gets for each sequence."""
    found = LayerInputs()

    def keep(_: nn.Module, positional: tuple[Any, ...], options: dict[str, Any]) -> None:
        found.states.append(positional[0])
        found.others.append((positional[1:], options))
        raise _Stop

    hook = layer.register_forward_pre_hook(keep, with_kwargs=True)
    device = next(parameter.device for parameter in model.parameters() if parameter.device.type != "meta")
    try:
        for ids in token_ids:
            with suppress(_Stop):
                model(input_ids=ids[None].to(device), use_cache=False)
    finally:
        hook.remove()
    return found


def hessian_of(linear: nn.Linear, runs: Iterable[Callable[[], Any]]) -> Tensor:
    """Sum of x^T x over the inputs that `runs` give a linear, float32 [K, K]; they go no further than that."""
    weight = linear.weight
    total = torch.zeros(linear.in_features, linear.in_features, device=weight.device)

    def add(_: nn.Module, positional: tuple[Tensor, ...]) -> None:
        rows = positional[0].flatten(0, -2).float()
        total.addmm_(rows.T, rows)
        raise _Stop

    hook = linear.register_forward_pre_hook(add)
    try:
        for run in runs:
            with suppress(_Stop):
                run()
    finally:
        hook.remove()
    return total


def states_of(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def is_quantized_kind(name: str) -> bool:
    return name.rpartition(".")[2] in QUANTIZED_LINEARS


def parent_of(name: str) -> str:
    return name.rpartition(".")[0]
