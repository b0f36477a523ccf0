"""What a full weight becomes in packed form, tensor by tensor and made when asked for: for folders and for loading."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from chatglm import native
from chatglm.errors import ConfigError
from chatglm.quant import packing
from chatglm.quant.model import EMBEDDINGS, quantized_layer, scheme_of_layer
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_embedding import PackedEmbedding
from chatglm.quant.packing import SCALES, VALUES, ZEROS
from chatglm.quant.scheme import QuantScheme

Parts = dict[str, Tensor]  # the tensors a matrix becomes, by the last part of their names
Kind = tuple[tuple[int, ...], torch.dtype]
Announced = tuple[tuple[int, ...], torch.dtype, Callable[[], Tensor]]  # how `official_tensors` announces them, too
Progress = Callable[[str, int, int], None]  # name of the matrix just done, how many are done, how many there are

_CHUNK = 2**20  # numbers rounded at a time


class Count:
    """Tells how far things are."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, name: str) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(name, self.done, self.total)


def quantized_tensors(
    shapes: Mapping[str, tuple[int, ...]],
    scheme: QuantScheme,
    read: Callable[[str], Tensor],
    progress: Progress | None = None,
) -> dict[str, dict[str, Announced]]:
    """The packed tensors for those of a full model that the scheme is about.

    Args:
        shapes: name and shape of the full tensors.
        read: gives one of them; each is read once, and not held.
        progress: called after each matrix.

    Returns:
        Name of a full tensor -> names of those in its place, with shape, dtype, and how to make it.

    Raises:
        ConfigError: when a tensor is made whose weight cannot be quantized; names the layer.
    """
    layers = {name: name.rpartition(".")[0] for name in shapes if name.endswith(".weight")}
    found = {name: wanted for name, layer in layers.items() if (wanted := scheme_of_layer(layer, scheme)) is not None}
    count, turn = Count(len(found), progress), RLock()

    def making(name: str, wanted: QuantScheme) -> Callable[[], Parts]:
        def make() -> Parts:
            parts = packed_parts(layers[name], read(name), wanted)
            count.add(layers[name])
            return parts

        return make

    return {
        name: {
            f"{layers[name]}.{part}": tensor
            for part, tensor in together(packed_kinds(shapes[name], wanted), making(name, wanted), turn).items()
        }
        for name, wanted in found.items()
    }


def packed_kinds(shape: tuple[int, ...], scheme: QuantScheme) -> dict[str, Kind]:
    """Shape and dtype of the tensors a matrix becomes."""
    shapes = packing.Shapes(shape[0], shape[1], scheme)
    kinds: dict[str, Kind] = {
        VALUES: (shapes.values, shapes.values_dtype),
        SCALES: (shapes.scales, shapes.scales_dtype),
    }
    return kinds if scheme.symmetric else kinds | {ZEROS: (shapes.scales, torch.uint8)}


def together(
    kinds: Mapping[str, Kind], make: Callable[[], Parts], turn: AbstractContextManager[Any] | None = None
) -> dict[str, Announced]:
    """Tensors that are made together and asked for one by one; each is let go when it was.

    `turn`: whoever makes some holds it, so that those who ask from several threads make one matrix at a time.
    """
    held: Parts = {}
    turn = turn or RLock()

    def take(part: str) -> Tensor:
        with turn:
            if part not in held:
                held.update(make())
            return held.pop(part)

    return {part: (*kind, lambda part=part: take(part)) for part, kind in kinds.items()}  # type: ignore[misc]


def packed_parts(layer: str, weight: Tensor, scheme: QuantScheme) -> Parts:
    """Rounded to nearest as `quantize_model` does it. Through torch some rows at a time: the float32 copies stay small.

    Raises:
        ConfigError: the weight cannot be quantized; names the layer.
    """
    whole = {part: torch.empty(kind, dtype=dtype) for part, (kind, dtype) in packed_kinds(weight.shape, scheme).items()}
    chunk = weight.numel() if native.available() else _CHUNK
    step = max(1, chunk // (weight.shape[1] * packing.BLOCK_ROWS))  # in blocks
    try:
        for index, rows in enumerate(weight.split(step * packing.BLOCK_ROWS)):
            made = quantized_layer(_shell(layer, rows), scheme)
            assert isinstance(made, (PackedLinear, PackedEmbedding))
            for part, tensor in parts_of(made.packed).items():
                whole[part][index * step : index * step + len(tensor)] = tensor
    except ConfigError as error:
        raise ConfigError(f"{layer}: {error}") from error
    return whole


def parts_of(packed: packing.Packed) -> Parts:
    """A packed matrix by the names of its tensors."""
    zeros = {} if packed.zeros is None else {ZEROS: packed.zeros}
    return {VALUES: packed.values, SCALES: packed.scales, **zeros}


def _shell(layer: str, weight: Tensor) -> nn.Module:
    """A layer around some rows of a matrix."""
    rows, columns = weight.shape
    shell: nn.Linear | nn.Embedding = nn.Linear(columns, rows, bias=False, device="meta")
    if layer.rpartition(".")[2] in EMBEDDINGS:
        shell = nn.Embedding(rows, columns, device="meta")
    shell.weight = nn.Parameter(weight, requires_grad=False)
    return shell
