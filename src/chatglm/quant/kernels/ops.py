"""The product with a packed weight as one torch operator, with a filling for each kind of device.

`torch.ops.chatglm.packed_linear` is seen whole by `torch.compile` and `torch.export`: it has a fake kernel.
"""

import warnings
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from chatglm import native
from chatglm.quant.packing import Packed, Shapes, dequantize
from chatglm.quant.scheme import QuantScheme


@torch.library.custom_op("chatglm::packed_linear", mutates_args=())
def packed_linear(
    states: Tensor,
    values: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    bits: int,
    group_size: int | None,
    precise: bool,
) -> Tensor:
    """states [..., in] times a packed weight [out, in] plus bias -> [..., out] in the dtype of the states.

    `precise`: multiply the numbers the weight stands for in floating point instead of rounding the activations.
    """
    reason = None if precise else missing(states.device, states.dtype)
    if reason is not None:
        say_once(reason)
    if precise or reason is not None:
        return reference_linear(states, values, scales, zeros, bias, out_features, bits, group_size)
    if states.is_cuda:
        from chatglm.quant.kernels import triton_linear

        return triton_linear.linear(states, values, scales, zeros, bias, out_features, bits, group_size)
    rows = states.reshape(-1, states.shape[-1]).float()
    weight = native_weight(values, scales, zeros, bias, out_features, states.shape[-1], bits, group_size)
    return native.linear(weight, rows).to(states.dtype).reshape(*states.shape[:-1], out_features)


def missing(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why no kernel of ours multiplies on this device, or None where one does."""
    if device.type == "cpu":
        return native.why_not() or None
    if device.type == "cuda":
        from chatglm.quant.kernels import triton_linear

        return triton_linear.unsuited(device, dtype)
    return f"there are kernels for cpu and cuda, not for {device.type}"


@packed_linear.register_fake
def _(
    states: Tensor,
    values: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    bits: int,
    group_size: int | None,
    precise: bool,
) -> Tensor:
    return states.new_empty((*states.shape[:-1], out_features))


def reference_linear(
    states: Tensor,
    values: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    bits: int,
    group_size: int | None,
) -> Tensor:
    """The readable oracle: make the weight, multiply in floating point. Runs on every device."""
    scheme = QuantScheme(bits, group_size, zeros is None, None, None)
    packed = Packed(values, scales, zeros, out_features, states.shape[-1])
    weight = dequantize(packed, scheme).to(states.dtype)
    return functional.linear(states, weight, None if bias is None else bias.to(states.dtype))


def native_weight(
    values: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    rows: int,
    columns: int,
    bits: int,
    group_size: int | None,
) -> native.Weight:
    """A packed weight as the native kernels take it; `values` must lie on the CPU."""
    bias = None if bias is None else bias.detach().float().contiguous()
    return native.Weight(values, scales, zeros, bias, rows, columns, bits, group_size)


def check_shapes(packed: Packed, scheme: QuantScheme) -> None:
    """Raises CheckpointError where a file's tensors are not what the scheme says: kernels trust them blindly."""
    Shapes(packed.rows, packed.columns, scheme).check(packed)


@lru_cache(maxsize=4)
def say_once(reason: str) -> None:
    """Warn that torch multiplies; once for each reason."""
    warnings.warn(f"quantized weights are multiplied through torch, which is slow: {reason}", stacklevel=4)
