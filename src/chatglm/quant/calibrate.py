"""Quantizing a model with the help of text: each layer is rounded for the inputs that it really gets.

One decoder layer is worked on at a time, and one matrix of it: memory holds the inputs of one layer and one Hessian.
How a matrix is rounded is `rounding.py`'s knowledge.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.errors import ConfigError
from chatglm.quant.layer_inputs import LayerInputs, decoder_layers, first_inputs, hessian_of, parent_of, states_of
from chatglm.quant.linear import QUANTIZED_LINEARS
from chatglm.quant.model import HEADS, effective_scheme, put, record, refuse_quantized, scheme_of_layer
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_embedding import PackedEmbedding
from chatglm.quant.rounding import Method, Numbers, check_method, restore, round_weight, scales_dtype
from chatglm.quant.scheme import QuantScheme

Progress = Callable[[str, int, int], None]  # name of the layer just done, how many are done, how many there are


@dataclass(frozen=True)
class Calibration:
    """How to round.

    Args:
        method: "gptq", "mse" (no text needed: only scales are searched) or "nearest".
        damping: of GPTQ; more keeps the result closer to rounding to nearest, for short or odd texts.
        act_order: GPTQ rounds the columns with the largest inputs first.
        scale_dtype: of scales that serve a whole row; default: that of the weights.
        load, unload: called with a layer's name and module before and after it is needed, for models whose weights are
            not in memory all at once. The output layer is asked for last.
    """

    method: Method = "gptq"
    damping: float = 0.01
    act_order: bool = False
    scale_dtype: torch.dtype | None = None
    load: Callable[[str, nn.Module], None] | None = None
    unload: Callable[[str, nn.Module], None] | None = None

    def __post_init__(self) -> None:
        check_method(self.method)


def cut(
    token_ids: Sequence[int], length: int = 512, limit: int | None = 64, prefix: Sequence[int] = ()
) -> list[Tensor]:
    """Sequences of `length` tokens for calibration, spread over the whole text, each behind `prefix`.

    Args:
        limit: how many at most; None: all there are.

    Raises:
        ConfigError: the text does not fill one sequence, or the length leaves no room for text.
    """
    room = length - len(prefix)
    if room < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"{limit} sequences of {length} tokens hold no text; both numbers must be larger")
    count = len(token_ids) // room
    if count == 0:
        raise ConfigError(
            f"the calibration text has {len(token_ids)} tokens; at least {room} are needed, and a hundred times "
            "as many are better (or give shorter sequences)"
        )
    chosen = count if limit is None else min(limit, count)
    starts = [index * count // chosen * room for index in range(chosen)]
    return [torch.tensor([*prefix, *token_ids[start : start + room]]) for start in starts]


def quantize_calibrated(
    model: nn.Module,
    token_ids: Sequence[Tensor] | None,
    scheme: QuantScheme,
    method: Method = "gptq",
    *,
    progress: Progress | None = None,
    **options: Any,
) -> nn.Module:
    """Replace the linears by calibrated PackedLinear modules, in place, layer by layer.

    The embedding follows `scheme.embedding_bits`, rounded to nearest.

    Args:
        model: full weights, official module names.
        token_ids: sequences of ids (see `cut`); None for the methods that need none.
        options: as of `Calibration`.

    Raises:
        ConfigError: nothing to quantize, no text, a model that is quantized already, values that do not go together.
    """
    scheme = effective_scheme(model, scheme)
    refuse_quantized(model, scheme)
    for name, numbers in calibrate_layers(model, token_ids, scheme, Calibration(method, **options), progress):
        linear, wanted = model.get_submodule(name), scheme_of_layer(name, scheme)
        assert isinstance(linear, nn.Linear)
        assert wanted is not None
        packed = PackedLinear.from_parts(*numbers, linear.in_features, wanted, linear.bias)
        packed.scale_dtype = scales_dtype(linear.weight.dtype, wanted)
        put(model, name, packed.train(linear.training))
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Embedding) and scheme_of_layer(name, scheme) is not None:
            put(model, name, PackedEmbedding.from_embedding(layer).train(layer.training))
    record(model, scheme)
    return model


def calibrate_layers(
    model: nn.Module,
    token_ids: Sequence[Tensor] | None,
    scheme: QuantScheme,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Numbers]]:
    """As `calibrate`, one linear after the other as soon as it is done; the layer may then be replaced."""
    calibration = calibration or Calibration()
    if calibration.method != "gptq":
        token_ids = None
    elif not token_ids:
        raise ConfigError("method 'gptq' needs text to calibrate with; 'mse' does without")
    run = _Run(model, effective_scheme(model, scheme), calibration, progress)
    was_training = model.training
    model.eval()
    try:
        yield from run.numbers(token_ids)
    finally:
        model.train(was_training)


class _Run:
    """One pass over the layers of a model."""

    def __init__(
        self, model: nn.Module, scheme: QuantScheme, calibration: Calibration, progress: Progress | None
    ) -> None:
        self.model, self.scheme, self.calibration, self.progress = model, scheme, calibration, progress
        self.layers = decoder_layers(model)
        names = (name for name, _ in model.named_modules() if name.rpartition(".")[2] in HEADS)
        self.head = next((name for name in names if scheme_of_layer(name, scheme) is not None), None)
        self.total = sum(len(self._linears(name)) for name in self.layers) + (self.head is not None)
        self.done = 0

    def numbers(self, token_ids: Sequence[Tensor] | None) -> Iterator[tuple[str, Numbers]]:
        if not self.total:
            raise ConfigError(f"the scheme skips {', '.join(self.scheme.skip)}: nothing is left to quantize")
        inputs = None
        if token_ids is not None:
            inputs = first_inputs(self.model, next(iter(self.layers.values())), token_ids)
        for name, layer in self.layers.items():
            self._load(name, layer)
            yield from self._round_layer(name, layer, inputs).items()
            self._unload(name, layer)
        if self.head is not None:
            yield self._round_head(self.head, inputs)

    @torch.no_grad()
    def _round_layer(self, name: str, layer: nn.Module, inputs: LayerInputs | None) -> dict[str, Numbers]:
        """Round one linear after the other; each gets what the ones before it, already rounded, hand on."""
        found: dict[str, Numbers] = {}
        originals: list[tuple[nn.Linear, Any]] = []
        try:
            for linear_name, linear in self._linears(name):
                hessian = None if inputs is None else hessian_of(linear, inputs.runs(layer))
                found[linear_name] = self._round(linear_name, linear, hessian)
                if inputs is not None:
                    originals.append((linear, linear.weight))
                    rounded = restore(found[linear_name], linear.in_features).to(linear.weight.dtype)
                    linear.weight = nn.Parameter(rounded, requires_grad=False)
            if inputs is not None:
                inputs.states = [states_of(run()) for run in inputs.runs(layer)]
        finally:
            for linear, weight in originals:
                linear.weight = weight
        return found

    @torch.no_grad()
    def _round_head(self, name: str, inputs: LayerInputs | None) -> tuple[str, Numbers]:
        head = self.model.get_submodule(name)
        assert isinstance(head, nn.Linear)
        self._load(name, head)
        hessian = None
        if inputs is not None:
            stack = self.model.get_submodule(parent_of(parent_of(next(iter(self.layers)))))
            norm = getattr(stack, "final_norm", nn.Identity())
            hessian = hessian_of(head, (partial(head, norm(states)) for states in inputs.states))
        numbers = self._round(name, head, hessian)
        self._unload(name, head)
        return name, numbers

    def _round(self, name: str, linear: nn.Linear, hessian: Tensor | None) -> Numbers:
        how, wanted = self.calibration, scheme_of_layer(name, self.scheme)
        assert wanted is not None
        try:
            weight = linear.weight.detach()
            numbers = round_weight(
                weight,
                wanted,
                how.method,
                hessian,
                damping=how.damping,
                act_order=how.act_order,
                scale_dtype=how.scale_dtype,
            )
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        self.done += 1
        if self.progress is not None:
            self.progress(name, self.done, self.total)
        return numbers

    def _linears(self, layer: str) -> list[tuple[str, nn.Linear]]:
        """The linears of a layer in the order in which they run."""
        modules = self.layers[layer].named_modules(prefix=layer)
        linears = {name: module for name, module in modules if isinstance(module, nn.Linear)}
        wanted = [name for name in linears if scheme_of_layer(name, self.scheme) is not None]
        wanted.sort(key=lambda name: QUANTIZED_LINEARS.index(name.rpartition(".")[2]))
        return [(name, linears[name]) for name in wanted]

    def _load(self, name: str, module: nn.Module) -> None:
        if self.calibration.load is not None:
            self.calibration.load(name, module)

    def _unload(self, name: str, module: nn.Module) -> None:
        if self.calibration.unload is not None:
            self.calibration.unload(name, module)
