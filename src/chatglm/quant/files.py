"""What packed weights are called in a weight folder, and which shapes a scheme gives them."""

from collections.abc import Callable, Mapping

from torch import Tensor

from chatglm.quant.model import scheme_of_layer
from chatglm.quant.packing import Packed, Shapes, dequantize
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


def packed_weight(layer: str, shape: tuple[int, ...], scheme: QuantScheme, read: Callable[[str], Tensor]) -> Tensor:
    """The full weight of a layer of a packed folder, float32 of its `shape`; `read` gives the folder's tensors.

    Raises:
        CheckpointError: the tensors are not what the scheme says.
    """
    wanted = scheme_of_layer(layer, scheme)
    assert wanted is not None
    zeros = None if wanted.symmetric else read(f"{layer}.{ZEROS}")
    packed = Packed(read(f"{layer}.{VALUES}"), read(f"{layer}.{SCALES}"), zeros, shape[0], shape[1])
    Shapes(shape[0], shape[1], wanted).check(packed)
    return dequantize(packed, wanted)
