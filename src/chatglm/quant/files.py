"""What packed weights are called in a weight folder, and which shapes a scheme gives them."""

from collections.abc import Mapping

import torch

from chatglm.quant.model import scheme_of_layer
from chatglm.quant.packing import Shapes
from chatglm.quant.scheme import QuantScheme

VALUES, SCALES, ZEROS = "packed_values", "packed_scales", "packed_zeros"


def packed_shapes(shapes: Mapping[str, tuple[int, ...]], scheme: QuantScheme) -> dict[str, tuple[int, ...]]:
    """The tensors of a full model as a packed folder holds them: name -> shape, in the same order."""
    result: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        layer, _, part = name.rpartition(".")
        wanted = scheme_of_layer(layer, scheme) if part == "weight" else None
        if wanted is None:
            result[name] = shape
            continue
        packed = Shapes(shape[0], shape[1], wanted)
        result[f"{layer}.{VALUES}"] = packed.values
        result[f"{layer}.{SCALES}"] = packed.scales
        if not wanted.symmetric:
            result[f"{layer}.{ZEROS}"] = packed.scales
    return result


def is_packed(name: str) -> bool:
    """Whether a tensor of this name is part of a packed weight, whose dtype is not the model's business."""
    return name.endswith((VALUES, SCALES, ZEROS))


def packed_dtype(name: str, scheme: QuantScheme) -> torch.dtype:
    """The dtype a packed tensor of this name has."""
    layer, _, part = name.rpartition(".")
    wanted = scheme_of_layer(layer, scheme)
    assert wanted is not None
    shapes = Shapes(1, 1, wanted)
    return {VALUES: shapes.values_dtype, SCALES: shapes.scales_dtype, ZEROS: torch.uint8}[part]
