"""The quantized linear layer through torch's own operators: no kernel of ours, nothing to build.

| device | 4 bits | 8 bits, one scale a row |
|---|---|---|
| CPU, bfloat16 | `_weight_int4pack_mm_for_cpu` | `_weight_int8pack_mm` |
| CUDA from compute capability 8.0, bfloat16 | `_weight_int4pack_mm` | - |
| MPS, any dtype | `_weight_int4pack_mm` | `_weight_int8pack_mm` |

The 4-bit operators have a form of their own, (value - 8) * scale + zero with groups of 32 to 256 columns, both numbers
in the dtype of the activations: in bfloat16 a scale loses three of its eleven bits. Where that matters, use the kernels
that read the packed layout. torch does not promise to keep these operators.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from chatglm.errors import ConfigError
from chatglm.quant import packing
from chatglm.quant.packing import Packed
from chatglm.quant.scheme import QuantScheme

GROUP_SIZES = (256, 128, 64, 32)
_ROW_STEPS = {"cpu": 16, "cuda": 16, "mps": 32}  # rows are padded to whole steps


@dataclass(frozen=True)
class TorchWeight:
    """A weight matrix [rows, columns] as torch's operators want it.

    Attributes:
        values: what the operator multiplies with; its layout belongs to the operator.
        scales: 4 bits: [groups, padded rows, 2], scale and zero; 8 bits: [padded rows].
        group_size: columns that share a scale; None for 8 bits.
        padded_columns: the width of the activations, zeros included.
    """

    values: Tensor
    scales: Tensor
    group_size: int | None
    rows: int
    columns: int
    padded_columns: int


def supports(scheme: QuantScheme, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why torch has no operator for weights of this scheme and activations of this dtype, or None if it has one."""
    if device.type not in _ROW_STEPS:
        return f"torch has no operators for quantized weights on {device.type}; there are some for cpu, cuda and mps"
    if scheme.bits == 8 and scheme.group_size is not None:
        return f"torch's 8-bit operator has one scale a row; the scheme {scheme.name} has groups"
    if device.type == "mps":
        known = dtype in (torch.float16, torch.bfloat16, torch.float32)
        return None if known else f"torch's operators take float16, bfloat16 or float32; the activations are {dtype}"
    if dtype != torch.bfloat16:
        slow = " at a useful speed" if device.type == "cpu" else ""
        return f"torch's operators on {device.type} take bfloat16 only{slow}; the activations are {dtype}"
    if device.type == "cuda" and scheme.bits == 8:
        return "torch's 8-bit operator on CUDA does not use the matrix units"
    if device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0):
        return "torch's 4-bit operator needs a GPU of compute capability 8.0 or newer"
    return None


def convert(packed: Packed, scheme: QuantScheme, device: torch.device, dtype: torch.dtype) -> TorchWeight:
    """A packed weight in the form torch's operator for this device wants.

    Scales and zeros are rounded to `dtype`.

    Raises:
        ConfigError: there is no such operator; the message is the reason `supports` gives.
    """
    if reason := supports(scheme, device, dtype):
        raise ConfigError(reason)
    values, scales, zeros = packing.unpack(packed, scheme)
    missing = -packed.rows % _ROW_STEPS[device.type]
    values, scales = (functional.pad(tensor, (0, 0, 0, missing)) for tensor in (values, scales))
    width = values.shape[1]
    if scheme.bits == 8:
        laid = values.to(device)
        return TorchWeight(laid, scales[:, 0].to(device, dtype), None, packed.rows, packed.columns, width)
    if zeros is None:
        values, middle = values + 8, torch.full_like(scales, 8)
    else:
        middle = functional.pad(zeros, (0, 0, 0, missing)).to(scales.dtype)
    # One scale a row is the same scale in every group.
    group_size = scheme.group_size or next(size for size in GROUP_SIZES if width % size == 0)
    affine = _affine(scales.float(), middle.float(), width // group_size, dtype)
    laid = _lay_out(values, device)
    return TorchWeight(laid, affine.to(device), group_size, packed.rows, packed.columns, width)


def linear(x: Tensor, weight: TorchWeight, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` for x [..., columns] -> [..., rows], in x's dtype, which must be that of the conversion.

    Raises:
        ConfigError: x has another dtype or width.
    """
    if x.dtype != weight.scales.dtype or x.shape[-1] != weight.columns:
        raise ConfigError(
            f"a linear layer for {weight.scales.dtype} [..., {weight.columns}] got {x.dtype} {list(x.shape)}; "
            "convert the weight for the dtype of the activations"
        )
    tokens = x.reshape(-1, weight.columns)
    # Whole steps of columns, always: the 8-bit operator for CPUs reads beyond the end of others.
    tokens = functional.pad(tokens, (0, weight.padded_columns - weight.columns)).contiguous()
    out = _multiply(tokens, weight)[:, : weight.rows].reshape(*x.shape[:-1], weight.rows)
    return out if bias is None else out + bias.to(out.dtype)


def _multiply(tokens: Tensor, weight: TorchWeight) -> Tensor:
    operators = torch.ops.aten
    out: Tensor
    if weight.group_size is None:
        out = operators._weight_int8pack_mm(tokens, weight.values, weight.scales)
    elif weight.values.dim() == 2:
        out = operators._weight_int4pack_mm_for_cpu(tokens, weight.values, weight.group_size, weight.scales)
    else:
        out = operators._weight_int4pack_mm(tokens, weight.values, weight.group_size, weight.scales)
    return out


def _affine(scales: Tensor, middle: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Scale and zero of (value - 8) * scale + zero, [groups, N, 2], from those of (value - middle) * scale."""
    rounded = scales.to(dtype)
    zeros = (8 - middle) * rounded.float()
    pairs = torch.stack((rounded, zeros.to(dtype)), dim=-1)  # [N, groups or 1, 2]
    return pairs.expand(-1, groups, -1).transpose(0, 1).contiguous()


def _lay_out(values: Tensor, device: torch.device) -> Tensor:
    """Numbers from 0 to 15, int8 [N, K], in the operator's layout: 2 dimensions for CPUs, 4 for GPUs."""
    laid: Tensor
    if device.type == "cpu":
        laid = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.to(device, torch.int32), 2)
    else:
        laid = torch.ops.aten._convert_weight_to_int4pack(nibbles(values).to(device), inner_tiles(values.shape[1]))
    return laid


def nibbles(values: Tensor) -> Tensor:
    """Two columns a byte, the even one in the high half: uint8 [N, K/2] from [N, K]."""
    even, odd = values.to(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    pairs: Tensor = (even << 4) | odd
    return pairs


def inner_tiles(columns: int) -> int:
    """How many tiles of 16 columns the operator for GPUs keeps together: 8, or what divides the width."""
    return next(tiles for tiles in (8, 4, 2) if columns % (16 * tiles) == 0)
