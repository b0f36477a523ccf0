"""Whole numbers for a weight matrix that lose less than rounding to nearest: searched scales, and GPTQ.

GPTQ (arXiv:2210.17323) rounds one column after the other and lets the columns not rounded yet make up for the error,
as the inputs of the layer tell. This file knows matrices; `calibrate.py` runs the model.
"""

from typing import Literal

import torch
from torch import Tensor

from chatglm.errors import ConfigError
from chatglm.quant import packing, rowwise
from chatglm.quant.scheme import QuantScheme

Method = Literal["gptq", "mse", "nearest"]
METHODS: tuple[Method, ...] = ("gptq", "mse", "nearest")
# values [N, K'], scales [N, K'/G], zeros [N, K'/G] or None: what `packing.pack` takes.
Numbers = tuple[Tensor, Tensor, Tensor | None]

_BLOCK = 128  # columns rounded before the rest of the matrix hears of it; whole groups fit
_CHUNK = 2**20  # numbers whose scales are searched at a time
_REFINEMENTS = 2


def round_weight(
    weight: Tensor,
    scheme: QuantScheme,
    method: Method = "mse",
    hessian: Tensor | None = None,
    *,
    damping: float = 0.01,
    act_order: bool = False,
    scale_dtype: torch.dtype | None = None,
) -> Numbers:
    """Round a matrix by the scheme's linear part, in the form `packing.pack` takes.

    With one scale a row the scales are numbers of the weight's own dtype, so that official files can hold them.

    Args:
        weight: floating point [N, K], finite.
        method: "gptq" (needs `hessian`), "mse" (searches the scales; with a `hessian` columns count by their inputs),
            or "nearest", the plain way.
        hessian: sum of x^T x over the layer's inputs, float32 [K, K]. 750 MB for the widest matrix of a 6B model.
        damping: share of the mean diagonal added to the diagonal.
        act_order: GPTQ rounds the columns with the largest inputs first; scales of groups are then fixed before.
        scale_dtype: of the file the weight comes from, where that is not the weight's own; not for "nearest".

    Raises:
        ConfigError: an unknown method, a missing or unfitting Hessian, NaN or infinity, no matrix.
    """
    check_method(method)
    _check_options(damping, act_order, method)
    _check(weight, hessian, method)
    if method == "nearest":
        return _nearest(weight, scheme)
    dtype = scales_dtype(scale_dtype or weight.dtype, scheme)
    if method == "mse":
        importance = None if hessian is None else hessian.diagonal().float()
        return _joined([_searched(rows, scheme, dtype, importance) for rows in weight.split(_rows(weight))])
    assert hessian is not None
    return _Gptq(weight, hessian, scheme, dtype, damping, act_order).round()


def check_method(method: str) -> None:
    """Raise ConfigError unless there is such a method."""
    if method not in METHODS:
        raise ConfigError(f"there is no rounding method {method!r}; there are {', '.join(METHODS)}")


def restore(numbers: Numbers, columns: int) -> Tensor:
    """The weight that rounded numbers stand for, float32 [N, K]."""
    values, scales, zeros = numbers
    groups = values.unflatten(1, (scales.shape[1], -1)).float()
    if zeros is not None:
        groups = groups - zeros[..., None].float()
    wide: Tensor = groups * scales[..., None].float()
    return wide.flatten(1)[:, :columns]


def scales_dtype(weight: torch.dtype, scheme: QuantScheme) -> torch.dtype:
    """The dtype whose numbers the scales of weights of another dtype may take."""
    return weight if scheme.group_size is None else torch.float16


def search_scales(
    groups: Tensor, scheme: QuantScheme, dtype: torch.dtype, importance: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Scales and zero points for `groups` [..., G] with the least squared error among a grid of cut-off points.

    The best is then fitted to the numbers it gives. The plain scale is among the candidates: the result is never worse.

    Args:
        importance: how much the square of an error counts, broadcast to `groups`; default: all alike.

    Raises:
        ConfigError: weights so large that `dtype` cannot hold their scale.
    """
    best = _Best(groups, scheme.bits, importance)
    for scales, zeros in _candidates(groups, scheme):
        if best.error is None and not torch.isfinite(scales.to(dtype)).all():  # the plain ones, the largest of all
            largest = float(scales.abs().max())
            raise ConfigError(f"a scale of {largest:g} does not fit {dtype}; weights this large cannot be quantized")
        best.offer(scales.to(dtype), zeros)
    for _ in range(_REFINEMENTS):
        best.offer(best.fitted().to(dtype), best.zeros)
    return best.scales, best.zeros


class _Best:
    """The best scales and zero points seen so far for groups [..., G]."""

    def __init__(self, groups: Tensor, bits: int, importance: Tensor | None) -> None:
        self.groups, self.bits = groups, bits
        self.importance = torch.ones(1, device=groups.device) if importance is None else importance
        self.error: Tensor | None = None
        self.scales = groups.new_empty(0)
        self.zeros: Tensor | None = None

    def offer(self, scales: Tensor, zeros: Tensor | None) -> None:
        scales = torch.where(torch.isfinite(scales), scales, torch.zeros_like(scales))
        error = ((self._whole(scales, zeros) * scales[..., None].float() - self.groups) ** 2 * self.importance).sum(-1)
        if self.error is None:
            self.error, self.scales, self.zeros = error, scales, zeros
            return
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.scales = torch.where(better, scales, self.scales)
        if zeros is not None and self.zeros is not None:
            self.zeros = torch.where(better, zeros, self.zeros)

    def fitted(self) -> Tensor:
        """The least-squares scales for the whole numbers the best ones give."""
        whole = self._whole(self.scales, self.zeros)
        square = (whole * whole * self.importance).sum(-1)
        product = (whole * self.groups * self.importance).sum(-1)
        return torch.where(square > 0, product / square.clamp_min(1e-30), self.scales.float())

    def _whole(self, scales: Tensor, zeros: Tensor | None) -> Tensor:
        values = packing.round_to(self.groups, scales, zeros, self.bits).float()
        return values if zeros is None else values - zeros[..., None].float()


def _candidates(groups: Tensor, scheme: QuantScheme) -> list[tuple[Tensor, Tensor | None]]:
    """Scales that cut off more and more of the extremes, the plain ones first."""
    if not scheme.symmetric:
        low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
        return [_asymmetric(low * share, high * share) for share in torch.linspace(1, 0.6, 11).tolist()]
    if scheme.bits == 8:
        extreme = groups.abs().amax(-1)
        return [(extreme / steps, None) for steps in (127.0, 128.0, 130.0, 132.0, 135.0, 138.0, 142.0, 147.0)]
    extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0]
    # -8 is the widest number: towards the extreme it reaches to 8 steps, on the other side to 7.
    steps = (-8.0, 7.0, -8.5, -9.0, -9.75, -10.75, -12.0, 7.5, 8.0, 8.75, 9.75, 11.0)  # 46 of them gain 0.4 %
    return [(extreme / step, None) for step in steps]


def _asymmetric(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    scales = (high - low) / 15
    safe = torch.where(scales == 0, torch.ones_like(scales), scales)
    return scales, torch.round(-low / safe).clamp(0, 15).to(torch.uint8)


def _nearest(weight: Tensor, scheme: QuantScheme) -> Numbers:
    """As `PackedLinear.from_linear`: the official formula where there is one scale a row."""
    if scheme.group_size is not None:
        return packing.quantize(weight, scheme)
    stored, scales = rowwise.quantize(weight, scheme.bits, precise=weight.dtype == torch.bfloat16)
    values = rowwise.unpack(stored) if scheme.bits == 4 else stored
    return _padded(values, scheme, None), scales.float()[:, None], None


def _searched(weight: Tensor, scheme: QuantScheme, dtype: torch.dtype, importance: Tensor | None) -> Numbers:
    groups, shares = _groups(weight.float(), scheme), None
    if importance is not None:
        shares = _groups(importance[None], scheme)[0]
    scales, zeros = search_scales(groups, scheme, dtype, shares)
    values = packing.round_to(groups, scales, zeros, scheme.bits).flatten(1)
    return values, _stored(scales, scheme), zeros


def _joined(parts: list[Numbers]) -> Numbers:
    """Numbers of all rows from those of some rows each."""
    values, scales, zeros = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(scales), None if zeros[0] is None else torch.cat(zeros)


def _groups(matrix: Tensor, scheme: QuantScheme) -> Tensor:
    """[N, K] padded with zeros to whole groups -> [N, K'/G, G]."""
    shapes = packing.Shapes(matrix.shape[0], matrix.shape[1], scheme)
    wide = torch.nn.functional.pad(matrix, (0, shapes.padded_columns - shapes.columns))
    groups: Tensor = wide.unflatten(1, (-1, shapes.group_size))
    return groups


def _stored(scales: Tensor, scheme: QuantScheme) -> Tensor:
    return scales.float() if scheme.group_size is None else scales


def _padded(values: Tensor, scheme: QuantScheme, zeros: Tensor | None) -> Tensor:
    """Whole numbers [N, K] -> [N, K'], the padding standing for zero."""
    width = packing.Shapes(values.shape[0], values.shape[1], scheme).padded_columns - values.shape[1]
    if not width:
        return values
    filling = values.new_zeros(values.shape[0], width) if zeros is None else zeros[:, -1:].to(values.dtype)
    return torch.cat((values, filling.expand(-1, width)), dim=1)


def _rows(weight: Tensor) -> int:
    return max(1, _CHUNK // max(1, weight.shape[1]))


class _Gptq:
    """GPTQ of one matrix: `weight` is worn down as columns are rounded."""

    def __init__(
        self, weight: Tensor, hessian: Tensor, scheme: QuantScheme, dtype: torch.dtype, damping: float, act_order: bool
    ) -> None:
        self.scheme, self.dtype = scheme, dtype
        columns = weight.shape[1]
        self.order = torch.arange(columns, device=weight.device)
        if act_order:
            self.order = hessian.diagonal().argsort(descending=True, stable=True)
        self.factor = _inverse_factor(hessian[self.order][:, self.order] if act_order else hessian, damping)
        self.weight = weight.float()[:, self.order].contiguous()
        self.size = packing.Shapes(weight.shape[0], weight.shape[1], scheme).group_size
        self.values = weight.new_empty(weight.shape, dtype=torch.int8)
        self.scales: list[Tensor] = []
        self.zeros: list[Tensor | None] = []
        if act_order or scheme.group_size is None:
            self._fix_scales(weight.float(), hessian)

    def round(self) -> Numbers:
        columns = self.weight.shape[1]
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            errors = self._round_block(start, stop)
            self.weight[:, stop:] -= errors @ self.factor[start:stop, stop:]
        scales = torch.stack(self.scales, dim=1)
        found = [zeros for zeros in self.zeros if zeros is not None]
        zeros = torch.stack(found, dim=1) if found else None
        return _padded(self.values, self.scheme, zeros), _stored(scales, self.scheme), zeros

    def _round_block(self, start: int, stop: int) -> Tensor:
        """Round the columns of a block -> their errors, each divided by its pivot [N, columns]."""
        block = self.weight[:, start:stop].T.contiguous()  # [columns, N]: each column in one piece
        factor, errors = self.factor[start:stop, start:stop], torch.empty_like(block)
        values = torch.empty_like(block, dtype=torch.int8)
        for index in range(stop - start):
            group = int(self.order[start + index]) // self.size
            if group == len(self.scales):
                self._next_scales(block[index : index + self.size].T, start + index)
            values[index], rounded = self._round_column(block[index], group)
            torch.div(block[index] - rounded, factor[index, index], out=errors[index])
            block[index + 1 :].addr_(factor[index, index + 1 :], errors[index], alpha=-1)
        self.values[:, self.order[start:stop]] = values.T
        return errors.T

    def _round_column(self, column: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """-> whole numbers and what they stand for [N]."""
        scales, zeros = self.scales[group], self.zeros[group]
        values = packing.round_to(column[:, None], scales, zeros, self.scheme.bits)[:, 0]
        whole = values.float() if zeros is None else values.float() - zeros.float()
        return values, whole * scales.float()

    def _next_scales(self, weight: Tensor, position: int) -> None:
        """Scales for the group of columns that begins here, as the earlier ones left it."""
        # What is left of an error once later columns made up for it is its square over the pivot's.
        importance = self.factor.diagonal()[position : position + self.size] ** -2
        scales, zeros = search_scales(weight.contiguous(), self.scheme, self.dtype, importance)
        self.scales.append(scales)
        self.zeros.append(zeros)

    def _fix_scales(self, weight: Tensor, hessian: Tensor) -> None:
        """Scales of all groups at once: where columns are out of order, or a scale serves the whole row."""
        importance = torch.empty(weight.shape[1], device=weight.device)
        importance[self.order] = self.factor.diagonal() ** -2
        shares = _groups(importance[None], self.scheme)[0]
        for rows in weight.split(_rows(weight)):
            scales, zeros = search_scales(_groups(rows, self.scheme), self.scheme, self.dtype, shares)
            self.scales.append(scales)
            self.zeros.append(zeros)
        whole = torch.cat(self.scales)
        self.scales = list(whole.unbind(1))
        points = [zeros for zeros in self.zeros if zeros is not None]
        self.zeros = list(torch.cat(points).unbind(1)) if points else [None] * whole.shape[1]


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse. [K, K]; two more of its size while it is made.

    Raises:
        ConfigError: no damping up to the size of the matrix itself makes it invertible.
    """
    mean = float(hessian.diagonal().mean())
    if mean == 0:
        return torch.eye(hessian.shape[0], device=hessian.device)
    share = damping
    while share <= max(1.0, damping):
        damped = hessian.float().clone()
        damped.diagonal().add_(share * mean)
        lower, wrong = torch.linalg.cholesky_ex(damped)
        if not wrong:
            inverse = torch.cholesky_inverse(lower)
            upper: Tensor
            upper, wrong = torch.linalg.cholesky_ex(inverse, upper=True)
            if not wrong:
                return upper
        share = max(share, 1e-4) * 10
    raise ConfigError(
        f"the inputs of this layer cannot be inverted, even with damping {share / 10:g}; calibrate with more text"
    )


def _check_options(damping: float, act_order: bool, method: str) -> None:
    if not 0 <= damping <= 1:
        raise ConfigError(f"damping is {damping!r}; it must lie between 0 and 1")
    if act_order and method != "gptq":
        raise ConfigError(f"act_order is for method 'gptq'; the method is {method!r}")


def _check(weight: Tensor, hessian: Tensor | None, method: str) -> None:
    if weight.dim() != 2 or not weight.is_floating_point() or 0 in weight.shape:
        raise ConfigError(f"cannot quantize {weight.dtype} {list(weight.shape)}; a floating point matrix is needed")
    if not torch.isfinite(weight).all():
        raise ConfigError("cannot quantize a weight that holds NaN or infinity; every value must be finite")
    if hessian is None:
        if method == "gptq":
            raise ConfigError("method 'gptq' needs the inputs of the layer (hessian); 'mse' does without")
        return
    size = weight.shape[1]
    if hessian.shape != (size, size):
        raise ConfigError(f"the Hessian is {list(hessian.shape)}; a weight of {size} columns needs {[size, size]}")
    if not torch.isfinite(hessian).all():
        raise ConfigError("the inputs of this layer hold NaN or infinity: the model overflows on the calibration text")
