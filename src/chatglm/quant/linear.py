"""RowwiseLinear: a linear layer that keeps the official INT8 / INT4 storage and dequantizes on the fly.

Parameter names are those of official files: `weight`, `weight_scale`, `bias`. The readable filling of this slot, and
what official files are read into; models hold the same numbers as `PackedLinear`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chatglm.quant import rowwise

# The four projections of a layer that official quantized files store row-wise.
QUANTIZED_LINEARS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


class RowwiseLinear(nn.Module):
    """A linear layer over row-wise INT8 or packed INT4 storage.

    Shapes: `weight` int8 [out, in * bits / 8], `weight_scale` [out], `bias` [out] or None. The scale keeps the dtype it
    was made with when the module is cast (`.float()`, `.half()`): it is part of the stored weight, not of the
    computation. Fresh modules are empty and wait for a checkpoint.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: int,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        scale_dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        rowwise.check_bits(bits)
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        stored = torch.empty(out_features, in_features * bits // 8, dtype=torch.int8, device=device)
        self.weight = nn.Parameter(stored, requires_grad=False)
        scale = torch.empty(out_features, dtype=scale_dtype, device=device)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype, device=device)) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, bits: int, *, precise: bool | None = None) -> "RowwiseLinear":
        """Quantize one linear layer; the bias is shared, the full weight is not kept.

        `precise=None` follows the official arithmetic bit for bit for float16 and float32 weights, and computes in
        float32 for bfloat16, whose eight bits make the official formula lose the sign of large weights.
        """
        if precise is None:
            precise = linear.weight.dtype == torch.bfloat16
        stored, scale = rowwise.quantize(linear.weight.detach(), bits, precise=precise)
        module = cls.empty_like(linear, bits, device="meta")
        module.weight = nn.Parameter(stored, requires_grad=False)
        module.weight_scale = nn.Parameter(scale, requires_grad=False)
        module.bias = linear.bias
        return module.train(linear.training)

    @classmethod
    def empty_like(
        cls,
        linear: nn.Linear,
        bits: int,
        *,
        device: torch.device | str | None = None,
        scale_dtype: torch.dtype = torch.float16,
    ) -> "RowwiseLinear":
        """An empty module with the shape of `linear`, on its device unless told."""
        return cls(
            linear.in_features,
            linear.out_features,
            bits,
            bias=linear.bias is not None,
            device=device or linear.weight.device,
            dtype=linear.weight.dtype,
            scale_dtype=scale_dtype,
        )

    def dequantize(self) -> Tensor:
        """The full weight [out, in], in the dtype of the stored scale."""
        return rowwise.dequantize(self.weight, self.weight_scale, self.bits)

    def to_linear(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """A plain linear layer with the dequantized weight."""
        weight = self.dequantize()
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.to(dtype or weight.dtype))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().to(linear.weight.dtype))
        return linear.train(self.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        if torch.is_grad_enabled() and hidden_states.requires_grad:
            output: Tensor = _Matmul.apply(hidden_states, self.bias, self)  # type: ignore[no-untyped-call]
            return output
        return functional.linear(hidden_states, self.dequantize().to(hidden_states.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RowwiseLinear":
        scale = self.weight_scale.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight_scale.dtype != scale.dtype:
            self.weight_scale.data = scale.to(self.weight_scale.device)
        return self


class _Matmul(torch.autograd.Function):
    """`x @ w^T` that dequantizes again in the backward pass instead of keeping the full weight alive."""

    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, bias: Tensor | None, module: RowwiseLinear) -> Tensor:
        ctx.module = module
        return functional.linear(hidden_states, module.dequantize().to(hidden_states.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        bias = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return gradient @ ctx.module.dequantize().to(gradient.dtype), bias, None


def is_full(module: nn.Module) -> bool:
    """Whether a module is a linear layer with a weight of its own in floating point."""
    return isinstance(module, nn.Linear) and "weight" in module._parameters
