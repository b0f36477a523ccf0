"""Quantized weights as folders hold them; fills `SmallerWeights` of `chatglm.model.storage`."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.quant import rowwise
from chatglm.quant.model import scheme_of_config, scheme_of_layer, unpack_model
from chatglm.quant.packing import SCALES, VALUES, ZEROS, Packed, Shapes, dequantize
from chatglm.quant.scheme import QuantScheme


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


def stored_shapes(shapes: Mapping[str, tuple[int, ...]], config: Any) -> dict[str, tuple[int, ...]]:
    """`packed_shapes` of the scheme that a configuration names; another program's scheme changes nothing."""
    scheme = scheme_of_config(config)
    return dict(shapes) if scheme is None else packed_shapes(shapes, scheme)


def full_weight(layer: str, shape: tuple[int, ...], config: Any, read: Callable[[str], Tensor]) -> Tensor:
    """The full weight of a layer of a packed folder, float32 of its `shape`; `read` gives the folder's tensors.

    Raises:
        CheckpointError: the tensors are not what the scheme says.
    """
    scheme = scheme_of_config(config)
    assert scheme is not None
    wanted = scheme_of_layer(layer, scheme)
    assert wanted is not None
    zeros = None if wanted.symmetric else read(f"{layer}.{ZEROS}")
    packed = Packed(read(f"{layer}.{VALUES}"), read(f"{layer}.{SCALES}"), zeros, shape[0], shape[1])
    Shapes(shape[0], shape[1], wanted).check(packed)
    return dequantize(packed, wanted)


def full_rowwise(values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The full weight [out, in] of an official row-wise one, in the dtype of its scale [out]."""
    return rowwise.dequantize(values, scale, bits)


def loading_options(config: Any, scale_dtype: torch.dtype | None) -> dict[str, Any]:
    """What transformers must be told of a quantized folder. A packed one says it by itself, once hf.py is imported."""
    from chatglm.quant.hf import RowwiseConfig

    if not config.quantization_bit:
        return {}
    return {"quantization_config": RowwiseConfig(config.quantization_bit, *([scale_dtype] if scale_dtype else []))}


def unpack(model: nn.Module) -> None:
    """Give a model with packed layers full weights, in place."""
    unpack_model(model)
