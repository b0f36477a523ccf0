"""PackedLinear: a linear layer over a packed weight, whatever the scheme and the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.errors import ConfigError
from chatglm.quant import rowwise
from chatglm.quant.kernels import torch_int4
from chatglm.quant.kernels.ops import missing, packed_linear, say_once
from chatglm.quant.kernels.rounding import rounded
from chatglm.quant.linear import RowwiseLinear
from chatglm.quant.no_weight import NoWeight
from chatglm.quant.packed_weight import PackedWeight, mark
from chatglm.quant.packing import pack, quantize, unpack
from chatglm.quant.scheme import OFFICIAL, QuantScheme


class PackedLinear(PackedWeight, nn.Linear):  # type: ignore[misc]  # torch says that a linear layer has a bias
    """A linear layer over a packed weight. On the CPU the native kernels multiply, on a GPU Triton's.

    It is an nn.Linear for those who put something around one (peft's LoRA); its `weight` cannot be read or changed.

    Args:
        in_features, out_features: as of nn.Linear.
        scheme: how the weight is stored.
        bias: whether there is one.
        dtype: of the bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: QuantScheme,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        start = torch.empty(out_features, device=device, dtype=dtype) if bias else None
        super().__init__(out_features, in_features, scheme, device, start)
        self.in_features, self.out_features = in_features, out_features
        self.precise = False  # multiply in floating point: exact, slow
        self._for_torch: tuple[object, torch_int4.TorchWeight] | None = None

    @classmethod
    def from_linear(cls, linear: nn.Linear, scheme: QuantScheme) -> "PackedLinear":
        """Quantize one layer by rounding to nearest; the bias is shared, the full weight is not kept.

        Schemes with one scale a row follow the official formula, as `RowwiseLinear` does.
        """
        official = scheme.group_size is None
        if (packed := rounded(linear.weight, scheme, official=official)) is not None:
            layer = cls(linear.in_features, linear.out_features, scheme, device="meta")
            layer.hold(packed)
            layer.bias = linear.bias
            layer.scale_dtype = linear.weight.dtype
            return layer
        if official:
            return cls.from_rowwise(RowwiseLinear.from_linear(linear, scheme.bits), scheme)
        return cls.from_parts(*quantize(linear.weight.detach(), scheme), linear.in_features, scheme, linear.bias)

    @classmethod
    def from_rowwise(cls, layer: RowwiseLinear, scheme: QuantScheme | None = None) -> "PackedLinear":
        """The same numbers as an official row-wise layer, laid out for the kernels."""
        values = rowwise.unpack(layer.weight) if layer.bits == 4 else layer.weight
        scales = layer.weight_scale.detach().float()[:, None]
        made = cls.from_parts(values, scales, None, layer.in_features, scheme or OFFICIAL[layer.bits], layer.bias)
        made.scale_dtype = layer.weight_scale.dtype
        return made.train(layer.training)

    scale_dtype = torch.float16  # of an official file's scales, for the way back

    @classmethod
    def from_parts(
        cls,
        values: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        columns: int,
        scheme: QuantScheme,
        bias: Tensor | None = None,
    ) -> "PackedLinear":
        """From whole numbers [N, K'] and scales and zero points [N, K'/G], as `packing.quantize` gives them."""
        packed = pack(values, scales, zeros, columns, scheme)
        layer = cls(columns, values.shape[0], scheme, device="meta")
        layer.hold(packed)
        layer.bias = None if bias is None else bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
        return layer

    @classmethod
    def empty_like(cls, linear: nn.Linear, scheme: QuantScheme) -> "PackedLinear":
        """An empty layer of the same shape, waiting for a checkpoint."""
        bias, weight = linear.bias is not None, linear.weight
        return cls(linear.in_features, linear.out_features, scheme, bias=bias, device=weight.device, dtype=weight.dtype)

    def to_linear(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """A plain linear layer with the weight this one stands for, float32 unless told."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.dequantize().to(dtype or torch.float32))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().to(linear.weight.dtype))
        return linear.train(self.training)

    def to_rowwise(self) -> RowwiseLinear:
        """Back to the official storage.

        Raises:
            ConfigError: the scheme has no place in it.
        """
        if self.scheme.group_size is not None:
            raise ConfigError(
                f"the official format holds one scale a row, this layer is {self.scheme.name}; "
                "save it in the native format, or dequantize it first"
            )
        values, scales, _ = unpack(self.packed, self.scheme)
        values = values[:, : self.columns].contiguous()
        layer = RowwiseLinear(self.in_features, self.out_features, self.scheme.bits, device="meta")
        stored = rowwise.pack(values) if self.scheme.bits == 4 else values
        layer.weight = nn.Parameter(stored, requires_grad=False)
        layer.weight_scale = nn.Parameter(scales[:, 0].to(self.scale_dtype), requires_grad=False)
        layer.bias = self.bias
        return layer.train(self.training)

    def official_tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype, Callable[[], Tensor]]]:
        """`weight` and `weight_scale` as official files hold them, as (shape, dtype, how to make it); empty for other
        schemes."""
        if not self.scheme.is_official:
            return {}
        width = self.in_features * self.scheme.bits // 8
        return {
            "weight": ((self.out_features, width), torch.int8, lambda: self.to_rowwise().weight.data),
            "weight_scale": ((self.out_features,), self.scale_dtype, lambda: self.to_rowwise().weight_scale.data),
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes what official files hold, too."""
        official = [f"{prefix}weight", f"{prefix}weight_scale"]
        if self.scheme.is_official and all(name in state_dict for name in official):
            values, scale = (state_dict.pop(name) for name in official)
            whole = rowwise.unpack(values) if self.scheme.bits == 4 else values
            packed = pack(whole, scale.float()[:, None], None, self.in_features, self.scheme)
            state_dict |= {f"{prefix}packed_values": packed.values, f"{prefix}packed_scales": packed.scales}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def weight(self) -> NoWeight:  # type: ignore[override]
        """Shape and device of the full weight, which is not there: for those who only look at an nn.Linear."""
        return NoWeight.of(self.packed, self.scheme.name)

    def forward(self, states: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (states.requires_grad or (self.bias is not None and self.bias.requires_grad)):
            output: Tensor = _Matmul.apply(states, self.bias, self)  # type: ignore[no-untyped-call]
            return output
        return self.multiply(states)

    def multiply(self, states: Tensor) -> Tensor:
        """The product without a backward pass."""
        if states.shape[-1] != self.in_features:
            raise ConfigError(f"the input has {states.shape[-1]} features, this layer takes {self.in_features}")
        if states.device != self.packed_values.device and not torch.compiler.is_compiling():
            raise ConfigError(
                f"the input is on {states.device}, the weight on {self.packed_values.device}; they must be on one "
                "device (where accelerate keeps weights elsewhere, call the whole model)"
            )
        if (weight := self._torch_weight(states)) is not None:
            return torch_int4.linear(states, weight, self.bias)
        scheme, zeros = self.scheme, self.packed_zeros
        out: Tensor = packed_linear(
            states,
            self.packed_values,
            self.packed_scales,
            zeros,
            self.bias,
            self.out_features,
            scheme.bits,
            scheme.group_size,
            self.precise,
        )
        return out

    def _torch_weight(self, states: Tensor) -> torch_int4.TorchWeight | None:
        """The weight as torch's own operators want it, where those are all there is: on Apple's GPUs, and on CPUs
        without our kernels. Made once and held beside the packed one, which saving needs: twice the memory.

        `torch.compile` sees `packed_linear` everywhere.
        """
        if self.precise or torch.compiler.is_compiling():
            return None
        device, dtype = states.device, states.dtype
        reason = missing(device, dtype)
        if reason is None or torch_int4.supports(self.scheme, device, dtype) is not None:
            return None
        stored = (device, dtype, *(mark(part) for part in self.buffers()))
        if self._for_torch is None or self._for_torch[0] != stored:
            if device.type == "cpu":
                say_once(reason)
            self._for_torch = stored, torch_int4.convert(self.packed, self.scheme, device, dtype)
        return self._for_torch[1]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, scheme={self.scheme.name}"


class _Matmul(torch.autograd.Function):
    """Multiplies as the kernels do; the gradient goes through the weight the layer stands for, made again."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, bias: Tensor | None, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return layer.multiply(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if ctx.needs_input_grad[1] else None
        return gradient @ ctx.layer.dequantize().to(gradient.dtype), bias, None
