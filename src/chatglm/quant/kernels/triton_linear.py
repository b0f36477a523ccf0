"""The quantized linear layer for GPUs: Triton kernels that read the packed layout as it is.

One token goes through a kernel that reads every weight once and multiplies in float32; several go to the matrix units.
Where a matrix has too few rows to fill a GPU its columns are divided into shares, which are added in a fixed order: the
same call gives the same bits.

This file needs no Triton; the kernels are in `triton_kernels.py`, which is imported when they first run.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chatglm.errors import ConfigError

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_BLOCK_ROWS = 16
_GEMV_STEPS = 256  # words of a row that a program looks at together
_DECODE_TOKENS = 16  # up to here every weight should be read from memory once, whatever the tile
_MERGE_TILE = 1024


class _Weight(NamedTuple):
    """A packed matrix as the kernels take it."""

    words: Tensor  # int32 [blocks, steps, 16, 1]
    scales: Tensor
    zeros: Tensor
    bits: int
    group_steps: int
    zero: int | None

    @property
    def steps(self) -> int:
        return self.words.shape[1]

    @property
    def per_word(self) -> int:
        return 32 // self.bits

    @property
    def step_tile(self) -> int:
        """Words of a row that `_gemm` looks at together: 128 columns."""
        return 128 // self.per_word

    def constants(self) -> dict[str, Any]:
        return {"BITS": self.bits, "GROUP_STEPS": self.group_steps, "ZERO": self.zero}


@cache
def unsuited(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot be used for activations of this dtype on this device, or None."""
    if device.type != "cuda":
        return f"Triton kernels need an NVIDIA or AMD GPU; the weights are on {device.type}"
    if find_spec("triton") is None:
        return "Triton is not installed (PyTorch's CUDA builds bring it)"
    if dtype not in DTYPES:
        return f"the activations are {dtype}; Triton kernels take float16, bfloat16 or float32"
    if torch.version.hip is None and (seen := torch.cuda.get_device_capability(device)) < (8, 0):
        return f"the GPU has compute capability {seen[0]}.{seen[1]}; Triton kernels need 8.0 or newer"
    return None


def linear(
    x: Tensor,
    values: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    bits: int,
    group_size: int | None,
) -> Tensor:
    """`x @ weight.T + bias` for a packed weight (layout: `packing.py`).

    Args:
        x: float16, bfloat16 or float32 [..., in_features]; padded columns of the weight may be left out.
        values, scales, zeros: of the packed weight.
        bias: [out_features] or None.

    Returns:
        [..., out_features] in x's dtype. Sums are float32. For more than one token, weights with scales of groups are
        rounded to x's dtype before they are multiplied.

    Raises:
        ConfigError: x has a dtype the kernels do not take, or the shapes of x, weight and bias do not fit.
    """
    weight = _weight(values, scales, zeros, bits, group_size)
    _check(x, weight, bias, out_features)
    tokens = x.reshape(-1, x.shape[-1])
    tokens = tokens if tokens.stride(-1) == 1 else tokens.contiguous()
    out = x.new_empty(tokens.shape[0], out_features)
    if out.numel():
        with torch.cuda.device_of(x):
            (_gemv if tokens.shape[0] == 1 else _gemm)(tokens, weight, bias, out)
    return out.view(*x.shape[:-1], out_features)


def dequantize(
    values: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    rows: int,
    columns: int,
    bits: int,
    group_size: int | None,
    dtype: torch.dtype,
    ids: Tensor | None = None,
) -> Tensor:
    """The weight [rows, columns] a packed matrix stands for, rounded to `dtype`; with whole-number `ids` [...] the rows
    of an embedding they name, [..., columns].

    An id that is no row gives a row of NaN: asking whether there is one would make the GPU wait.
    """
    from chatglm.quant.kernels import triton_kernels

    weight = _weight(values, scales, zeros, bits, group_size)
    flat = None if ids is None else ids.reshape(-1).contiguous()
    count = rows if flat is None else flat.numel()
    out = torch.empty(count, columns, dtype=dtype, device=values.device)
    tile = (16, 128) if flat is None or count >= 16 else (1, 1024)
    if out.numel():
        with torch.cuda.device_of(values):
            triton_kernels.rows_kernel[(-(-count // tile[0]), -(-columns // tile[1]))](
                out if flat is None else flat, weight.words, weight.scales, weight.zeros, out, count, rows, columns,
                weight.steps, **weight.constants(), HAS_IDS=flat is not None, ROWS=tile[0], COLUMNS=tile[1],
                enable_fp_fusion=True,
            )  # fmt: skip
    return out if ids is None else out.view(*ids.shape, columns)


def _weight(values: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int | None) -> _Weight:
    # A tensor that is not read stands in for zero points that are not there.
    group_steps = group_size * bits // 32 if group_size else 0
    zero = 128 if bits == 8 else 8 if zeros is None else None
    return _Weight(values.view(torch.int32), scales, scales if zeros is None else zeros, bits, group_steps, zero)


def _check(x: Tensor, weight: _Weight, bias: Tensor | None, out_features: int) -> None:
    rows, columns = weight.words.shape[0] * _BLOCK_ROWS, weight.steps * weight.per_word
    if x.dtype not in DTYPES:
        raise ConfigError(f"a quantized linear got activations of {x.dtype}; it takes float16, bfloat16 or float32")
    if not 0 < x.shape[-1] <= columns:
        raise ConfigError(
            f"a quantized linear of {columns} columns got activations of {x.shape[-1]}; "
            "the last dimension must be in_features"
        )
    if out_features > rows or (bias is not None and bias.shape != (out_features,)):
        seen = "" if bias is None else f" and a bias of shape {list(bias.shape)}"
        raise ConfigError(
            f"a quantized linear of {rows} rows was asked for {out_features} features{seen}; "
            "there can be no more features than rows, and the bias must have as many"
        )


def _gemv(x: Tensor, weight: _Weight, bias: Tensor | None, out: Tensor) -> None:
    from chatglm.quant.kernels import triton_kernels

    rows, blocks, cores = out.shape[1], -(-out.shape[1] // _BLOCK_ROWS), _cores(x.device)
    wanted = 1 if blocks >= cores else 2 * cores // blocks
    shares, share_steps = _shares(wanted, weight.steps, _GEMV_STEPS)
    target, addend = _target(out, bias, shares)
    triton_kernels.gemv_kernel[(blocks, shares)](
        x, weight.words, weight.scales, weight.zeros, addend, target, rows, x.shape[1], weight.steps, share_steps,
        (1 << weight.bits) - 1, **weight.constants(), HAS_BIAS=addend is not out, STEPS=_GEMV_STEPS, num_warps=8,
        enable_fp_fusion=True,
    )  # fmt: skip
    _merge(target, bias, out)


def _gemm(x: Tensor, weight: _Weight, bias: Tensor | None, out: Tensor) -> None:
    tokens, rows = out.shape
    tile = _tile(tokens, x.dtype)
    programs = -(-rows // tile["ROWS"]) * -(-tokens // tile["TOKENS"])
    shares, share_steps = _shares(2 * _cores(x.device) // programs, weight.steps, weight.step_tile)
    target, addend = _target(out, bias, shares)

    def grid(options: dict[str, int]) -> tuple[int, int]:
        return -(-rows // options["ROWS"]) * -(-tokens // options["TOKENS"]), shares

    kernel, options = _kernel_for(x, tokens, rows, weight, tile)
    laid = _by_place(x, weight)
    kernel[grid](
        laid, weight.words, weight.scales, weight.zeros, addend, target, tokens, rows, weight.steps, share_steps,
        laid.shape[2], **weight.constants(), HAS_BIAS=addend is not out,
        STEPS=weight.step_tile, NEIGHBOURS=8, enable_fp_fusion=True, **options,
    )  # fmt: skip
    _merge(target, bias, out)


def _by_place(x: Tensor, weight: _Weight) -> Tensor:
    """x with the columns of one place of the words side by side, [tokens, per_word, steps].

    So that the tiles of the matrix product are read in whole pieces. Zeros up to whole tiles of steps.
    """
    steps = -(-weight.steps // weight.step_tile) * weight.step_tile
    missing = steps * weight.per_word - x.shape[1]
    padded = torch.nn.functional.pad(x, (0, missing)) if missing else x.contiguous()
    laid: Tensor = padded.view(-1, steps, weight.per_word)
    return laid.transpose(1, 2).contiguous()


def _shares(wanted: int, steps: int, tile: int) -> tuple[int, int]:
    """Into how many shares to divide the steps, and their size: whole tiles, and at least four unless it is all."""
    shares = max(1, min(wanted, steps // (4 * tile)))
    size = -(-steps // (shares * tile)) * tile
    return -(-steps // size), size


def _target(out: Tensor, bias: Tensor | None, shares: int) -> tuple[Tensor, Tensor]:
    """Where a kernel writes, and the bias it adds; `out` stands in for none: it is added when shares are merged."""
    if shares == 1:
        return out, out if bias is None else bias
    return out.new_empty(shares, *out.shape, dtype=torch.float32), out


def _merge(parts: Tensor, bias: Tensor | None, out: Tensor) -> None:
    from chatglm.quant.kernels import triton_kernels

    if parts is out:
        return
    triton_kernels.merge_kernel[(-(-out.numel() // _MERGE_TILE),)](
        parts, out if bias is None else bias, out, out.numel(), out.shape[1], parts.shape[0],
        HAS_BIAS=bias is not None, TILE=_MERGE_TILE, enable_fp_fusion=True,
    )  # fmt: skip


def _tile(tokens: int, dtype: torch.dtype) -> dict[str, int]:
    """The tile of rows and tokens that is used where none are tried: at most 99 KB, what every GPU has for it."""
    if tokens <= _DECODE_TOKENS:
        return {"ROWS": 64, "TOKENS": 16, "num_warps": 4, "num_stages": 4}
    if dtype == torch.float32:
        return {"ROWS": 64, "TOKENS": 32, "num_warps": 4, "num_stages": 3}
    if tokens <= 64:
        return {"ROWS": 64, "TOKENS": 32 if tokens <= 32 else 64, "num_warps": 4, "num_stages": 4}
    return {"ROWS": 128, "TOKENS": 128, "num_warps": 8, "num_stages": 2}


def _kernel_for(x: Tensor, tokens: int, rows: int, weight: _Weight, tile: dict[str, int]) -> tuple[Any, dict[str, Any]]:
    """What to launch, and with which options: the tile that was found, or a trial of several, or `tile`.

    Nothing is tried for few tokens, since decoding should not wait, nor while a CUDA graph is recorded.
    """
    from chatglm.quant.kernels.triton_kernels import gemm_kernel

    if tokens <= _DECODE_TOKENS or x.device.type != "cuda":
        return gemm_kernel, tile
    bucket = (tokens - 1).bit_length()
    trial = _trial(x.device, x.dtype, bucket, rows, weight.steps, weight.bits, weight.group_steps, weight.zero)
    best = getattr(trial, "best_config", None)  # there after the first launch
    if best is not None:
        return gemm_kernel, best.all_kwargs()
    return (gemm_kernel, tile) if torch.cuda.is_current_stream_capturing() else (trial, {})


@cache
def _trial(device: torch.device, dtype: torch.dtype, bucket: int, *shape: Any) -> Any:
    """The kernel, trying tiles at its first launch; one for each kind of product.

    They all add up in the same order, so which of them is fastest does not change the numbers.
    """
    import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]

    from chatglm.quant.kernels.triton_kernels import gemm_kernel

    tiles = [(64, 32, 4, 4), (64, 64, 4, 4), (128, 32, 4, 4), (128, 64, 4, 4), (128, 64, 8, 3), (128, 128, 4, 3),
             (128, 128, 8, 3), (128, 256, 8, 3), (64, 256, 8, 3)]  # fmt: skip
    configs = [
        triton.Config({"ROWS": rows, "TOKENS": tokens}, num_warps=warps, num_stages=stages)
        for rows, tokens, warps, stages in tiles
        if tokens <= 1 << bucket  # at least 32
    ]
    return triton.autotune(configs, key=[])(gemm_kernel)


@cache
def _cores(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
