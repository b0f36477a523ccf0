"""The layout of packed weights: what files hold and every kernel reads, whatever the processor.

Blocks of 16 rows, so that one vector register holds the same column of 16, 8 or 4 rows. With N rows padded to 16, K
columns padded to 32 and to whole groups, and G columns that share a scale:

    values  4 bits: uint8 [N/16, K/8, 16, 4], byte j of step l holds column 8l+j (low nibble) and 8l+4+j (high nibble)
            8 bits: int8  [N/16, K/4, 16, 4]
    scales  float16 [N/16, K/G, 16], or float32 [N/16, 1, 16] with one scale for each row
    zeros   uint8 [N/16, K/G, 16], only where asymmetric

A weight is (value - zero) * scale; symmetric 4-bit values are stored with 8 added. Padding stands for zero.
This file knows tensors, not modules.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm.errors import CheckpointError, ConfigError
from chatglm.quant.scheme import QuantScheme

BLOCK_ROWS = 16
COLUMN_STEP = 32
VALUES, SCALES, ZEROS = "packed_values", "packed_scales", "packed_zeros"  # the tensors' names, behind the layer's


@dataclass
class Packed:
    """One weight matrix [rows, columns] in packed form."""

    values: Tensor
    scales: Tensor
    zeros: Tensor | None
    rows: int
    columns: int


@dataclass(frozen=True)
class Shapes:
    """The shapes and dtypes a scheme gives a matrix."""

    rows: int
    columns: int
    scheme: QuantScheme

    @property
    def padded_rows(self) -> int:
        return -(-self.rows // BLOCK_ROWS) * BLOCK_ROWS

    @property
    def padded_columns(self) -> int:
        step = self.scheme.group_size or COLUMN_STEP
        return -(-self.columns // step) * step

    @property
    def group_size(self) -> int:
        return self.scheme.group_size or self.padded_columns

    @property
    def values(self) -> tuple[int, ...]:
        return (self.padded_rows // BLOCK_ROWS, self.padded_columns * self.scheme.bits // 32, BLOCK_ROWS, 4)

    @property
    def scales(self) -> tuple[int, ...]:
        return (self.padded_rows // BLOCK_ROWS, self.padded_columns // self.group_size, BLOCK_ROWS)

    @property
    def values_dtype(self) -> torch.dtype:
        return torch.uint8 if self.scheme.bits == 4 else torch.int8

    @property
    def scales_dtype(self) -> torch.dtype:
        return torch.float32 if self.scheme.group_size is None else torch.float16

    def check(self, packed: Packed) -> None:
        """Raises CheckpointError where tensors do not have these shapes and dtypes."""
        expected = [("values", self.values, self.values_dtype), ("scales", self.scales, self.scales_dtype)]
        if self.scheme.symmetric and packed.zeros is not None:
            raise CheckpointError(
                f"a {self.scheme.name} weight has no zeros, but {list(packed.zeros.shape)} were found"
            )
        if not self.scheme.symmetric:
            expected.append(("zeros", self.scales, torch.uint8))
        for name, shape, dtype in expected:
            tensor = getattr(packed, name)
            if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != dtype:
                seen = "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
                raise CheckpointError(
                    f"packed {name} of a {self.rows} x {self.columns} {self.scheme.name} weight are {seen}; "
                    f"they must be {dtype} {list(shape)}"
                )


def quantize(weight: Tensor, scheme: QuantScheme) -> tuple[Tensor, Tensor, Tensor | None]:
    """Round a matrix to whole numbers by the scheme; nothing packed yet.

    Symmetric: scale = max|w| / (2^(bits-1) - 1) with all values in use down to -2^(bits-1) for 4 bits: the number of
    largest size is put at -8, whichever its sign (the rule of Q4_0 files), which halves the error of the extreme.
    Asymmetric: zero and scale span the smallest to the largest number of the group, zero included.

    Args:
        weight: floating point [N, K], finite.

    Returns:
        values [N, K'] int8 (symmetric: from -2^(bits-1); asymmetric: 0 to 15), scales [N, K'/G], zeros [N, K'/G] or
        None; K' is K padded to whole groups, the padding stands for zero.

    Raises:
        ConfigError: NaN or infinity in the weight, or not a matrix.
    """
    if weight.dim() != 2:
        raise ConfigError(f"cannot quantize a tensor of shape {list(weight.shape)}; a matrix is needed")
    if weight.numel() == 0:
        raise ConfigError(f"cannot quantize a matrix {list(weight.shape)}: it has no rows or no columns")
    if not weight.is_floating_point():
        raise ConfigError(f"cannot quantize {weight.dtype}; a floating point matrix is needed")
    if not torch.isfinite(weight).all():
        raise ConfigError("cannot quantize a weight that holds NaN or infinity; every value must be finite")
    rows, columns = weight.shape
    shapes = Shapes(rows, columns, scheme)
    wide = torch.nn.functional.pad(weight.float(), (0, shapes.padded_columns - shapes.columns))
    groups = wide.unflatten(1, (-1, shapes.group_size))  # [N, K'/G, G]
    scales, zeros = _scales(groups, scheme, shapes.scales_dtype)
    return round_to(groups, scales, zeros, scheme.bits).flatten(1), scales, zeros


def _scales(groups: Tensor, scheme: QuantScheme, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    if scheme.symmetric:
        if scheme.bits == 8:
            return _rounded(groups.abs().amax(-1) / 127, dtype), None
        extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0]
        return _rounded(extreme / -8, dtype), None
    low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    scales = _rounded((high - low) / 15, dtype)
    safe = torch.where(scales == 0, torch.ones_like(scales), scales).float()
    return scales, torch.round(-low / safe).clamp(0, 15).to(torch.uint8)


def _rounded(scales: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = scales.to(dtype)
    if not torch.isfinite(rounded).all():
        largest = float(scales.abs().max())
        raise ConfigError(f"a scale of {largest:g} does not fit {dtype}; weights this large cannot be quantized")
    return rounded


def round_to(groups: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    """Whole numbers for `groups` [..., G] given their scales [...] and zero points: the nearest that fit."""
    safe = torch.where(scales == 0, torch.ones_like(scales), scales).float()[..., None]
    values = torch.round(groups / safe)
    if zeros is not None:
        return (values + zeros.float()[..., None]).clamp(0, 15).to(torch.int8)
    limit = 2 ** (bits - 1)
    values = torch.where(scales[..., None] == 0, torch.zeros_like(values), values)
    rounded: Tensor = values.clamp(-limit, limit - 1).to(torch.int8)
    return rounded


def pack(values: Tensor, scales: Tensor, zeros: Tensor | None, columns: int, scheme: QuantScheme) -> Packed:
    """Lay out whole numbers [N, K'] with scales and zeros [N, K'/G] for the kernels."""
    shapes = Shapes(values.shape[0], columns, scheme)
    if scheme.bits == 4 and scheme.symmetric:
        values = values + 8
    filler = 8 if scheme.bits == 4 and scheme.symmetric else 0
    rows = (0, 0, 0, shapes.padded_rows - shapes.rows)
    width = shapes.padded_columns - values.shape[1]
    if width:  # row-wise numbers of an odd width
        values = torch.nn.functional.pad(values, (0, width), value=filler)
    values = torch.nn.functional.pad(values, rows, value=filler)
    laid = values.unflatten(0, (-1, BLOCK_ROWS)).unflatten(2, (-1, 4)).transpose(1, 2)  # [N/16, K/4, 16, 4]
    if scheme.bits == 4:
        pairs = laid.to(torch.uint8).unflatten(1, (-1, 2))
        laid = pairs[:, :, 0] | (pairs[:, :, 1] << 4)
    packed = Packed(
        laid.contiguous(),
        _lay_out(scales.to(shapes.scales_dtype), rows),
        None if zeros is None else _lay_out(zeros, rows),
        shapes.rows,
        columns,
    )
    shapes.check(packed)
    return packed


def _lay_out(per_group: Tensor, rows: tuple[int, int, int, int]) -> Tensor:
    padded = torch.nn.functional.pad(per_group, rows)
    laid: Tensor = padded.unflatten(0, (-1, BLOCK_ROWS)).transpose(1, 2).contiguous()
    return laid


def unpack(packed: Packed, scheme: QuantScheme) -> tuple[Tensor, Tensor, Tensor | None]:
    """The way back: values int8 [N, K'], scales and zeros [N, K'/G], without the padded rows."""
    laid = packed.values
    if scheme.bits == 4:
        laid = torch.stack((laid & 15, laid >> 4), dim=2).flatten(1, 2)
    values = laid.transpose(1, 2).flatten(2).flatten(0, 1)[: packed.rows].to(torch.int8)
    if scheme.bits == 4 and scheme.symmetric:
        values = values - 8
    scales = packed.scales.transpose(1, 2).flatten(0, 1)[: packed.rows]
    zeros = None if packed.zeros is None else packed.zeros.transpose(1, 2).flatten(0, 1)[: packed.rows]
    return values, scales, zeros


def dequantize(packed: Packed, scheme: QuantScheme) -> Tensor:
    """The weight a packed matrix stands for, float32 [N, K]."""
    values, scales, zeros = unpack(packed, scheme)
    groups = values.unflatten(1, (scales.shape[1], -1)).float()
    if zeros is not None:
        groups = groups - zeros[..., None].float()
    weight: Tensor = (groups * scales[..., None].float()).flatten(1)[:, : packed.columns]
    return weight
