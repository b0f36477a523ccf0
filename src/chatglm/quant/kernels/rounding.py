"""Rounding to nearest by the native kernels; `packing` and `rowwise` come to the same bits through torch."""

import torch
from torch import Tensor

from chatglm import native
from chatglm.quant.packing import Packed, Shapes
from chatglm.quant.scheme import QuantScheme

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def rounded(weight: Tensor, scheme: QuantScheme, *, official: bool = False) -> Packed | None:
    """A full weight [N, K] packed by a scheme; None where that is left to torch, which also says what is wrong with it.

    `official`: by the formula of the official releases; the scheme then has one scale a row.
    """
    if weight.dim() != 2 or 0 in weight.shape or not weight.is_cpu or weight.dtype not in _DTYPES:
        return None
    odd = official and scheme.bits == 4 and weight.shape[1] % 2
    if odd or not native.available():
        return None
    rows, columns = weight.shape
    shapes = Shapes(rows, columns, scheme)
    values = torch.empty(shapes.values, dtype=shapes.values_dtype)
    scales = torch.empty(shapes.scales, dtype=shapes.scales_dtype)
    zeros = None if scheme.symmetric else torch.empty(shapes.scales, dtype=torch.uint8)
    target = native.Weight(values, scales, zeros, None, rows, columns, scheme.bits, scheme.group_size)
    if not native.quantize(target, weight, official):
        return None
    return Packed(values, scales, zeros, rows, columns)
