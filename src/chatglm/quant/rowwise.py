"""The official row-wise INT8 and INT4 format: quantize, pack, unpack, dequantize, bit for bit.

Symmetric, one scale per output row, no zero point. A row of INT4 holds two columns per byte, the even column in the
high nibble, both nibbles in two's complement. Source of the format: the golden data made with the official code.
This file knows tensors, not modules.
"""

import torch
from torch import Tensor

from chatglm.errors import CheckpointError, ConfigError

BITS = (4, 8)
_CHUNK = 2**20  # numbers quantized at a time


def check_bits(bits: int) -> None:
    """Raise ConfigError unless `bits` is 4 or 8."""
    if bits not in BITS or isinstance(bits, bool):
        raise ConfigError(f"cannot quantize to {bits!r} bits; the row-wise format knows 4 and 8")


def quantize(weight: Tensor, bits: int, *, precise: bool = False) -> tuple[Tensor, Tensor]:
    """Quantize a matrix by the official formula: scale = max|row| / (2^(bits-1) - 1), q = round_half_even(w / scale).

    The official arithmetic runs in the dtype of the weight, and so does this function: the same bits come out.
    Two differences: values that the rounded scale pushes beyond the storage are clamped (the official cast wraps them
    to the other sign), and a row of zeros gives scale 0 and values 0 (there: undefined).

    Args:
        weight: floating point, [out, in]; `in` even for 4 bits.
        bits: 4 or 8.
        precise: compute in float32 against the rounded scale. Better values for bfloat16, not bit-equal.

    Returns:
        stored values int8 [out, in * bits / 8], scale [out] in the dtype of `weight`.

    Raises:
        ConfigError: unknown bits, an odd number of columns for 4 bits, NaN or infinity in the weight.
    """
    check_bits(bits)
    _check_shape(weight, bits)
    # A few rows at a time: the intermediates stay in the processor's cache instead of touching fresh memory.
    step = max(1, _CHUNK // max(1, weight.shape[1]))
    parts = [_quantize_rows(rows, bits, precise) for rows in weight.split(step)]
    stored, scales = zip(*parts, strict=True)
    return torch.cat(stored), torch.cat(scales)


def _quantize_rows(weight: Tensor, bits: int, precise: bool) -> tuple[Tensor, Tensor]:
    if not torch.isfinite(weight).all():
        raise ConfigError("cannot quantize a weight that holds NaN or infinity; every value must be finite")
    limit = 2 ** (bits - 1) - 1
    work = weight.float() if precise else weight
    scale = (work.abs().amax(dim=1) / limit).to(weight.dtype)  # [rows]
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale).to(work.dtype)
    values = torch.round(work / divisor[:, None])
    values = torch.where(scale[:, None] == 0, torch.zeros_like(values), values)
    values = values.clamp(-limit - 1, limit).to(torch.int8)
    return (pack(values) if bits == 4 else values), scale


def dequantize(stored: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The weight a stored matrix stands for, in the dtype of its scale: [out, in].

    Raises:
        CheckpointError: the stored values are not int8, or there is not one scale per row.
    """
    check_bits(bits)
    if stored.dtype != torch.int8 or scale.shape != stored.shape[:1]:
        raise CheckpointError(
            f"row-wise values are {stored.dtype} {list(stored.shape)} with scales {list(scale.shape)}; "
            "they must be int8 [out, columns] with one scale per row [out]"
        )
    values = unpack(stored) if bits == 4 else stored
    return values.to(scale.dtype).mul_(scale[:, None])


def pack(values: Tensor) -> Tensor:
    """Two INT4 columns per byte: int8 [out, in] with values in -8..7 -> int8 [out, in / 2]."""
    even, odd = values[:, 0::2], values[:, 1::2]
    return (even << 4) | (odd & 0x0F)


def unpack(packed: Tensor) -> Tensor:
    """The columns of packed INT4 rows: int8 [out, n] -> int8 [out, 2 n]. Shifts of int8 keep the sign."""
    values = packed.new_empty(packed.shape[0], packed.shape[1], 2)
    values[..., 0] = packed >> 4
    values[..., 1] = (packed << 4) >> 4
    return values.flatten(1)


def _check_shape(weight: Tensor, bits: int) -> None:
    if weight.ndim != 2 or not weight.is_floating_point() or 0 in weight.shape:
        raise ConfigError(f"cannot quantize {weight.dtype} {list(weight.shape)}; a floating point matrix is needed")
    if bits == 4 and weight.shape[1] % 2:
        raise ConfigError(f"cannot pack {weight.shape[1]} columns at 4 bits; the number of columns must be even")
