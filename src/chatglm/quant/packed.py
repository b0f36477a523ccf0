"""PackedLinear and PackedEmbedding: layers over packed weights, whatever the scheme and the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.errors import CheckpointError, ConfigError
from chatglm.quant import rowwise
from chatglm.quant.kernels import torch_int4
from chatglm.quant.kernels.ops import check_shapes, missing, packed_linear
from chatglm.quant.linear import RowwiseLinear
from chatglm.quant.packing import Packed, Shapes, dequantize, pack, quantize, unpack
from chatglm.quant.scheme import OFFICIAL, QuantScheme


class _PackedWeight(nn.Module):
    """What the two layers share: a weight [rows, columns] in packed form that no cast of the model touches."""

    packed_values: Tensor
    packed_scales: Tensor
    packed_zeros: Tensor | None

    def __init__(
        self,
        rows: int,
        columns: int,
        scheme: QuantScheme,
        device: torch.device | str | None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.rows, self.columns, self.scheme = rows, columns, scheme
        shapes = Shapes(rows, columns, scheme)
        zeros = None if scheme.symmetric else torch.empty(shapes.scales, dtype=torch.uint8, device=device)
        # Buffers: what cannot be trained should not look like a parameter, nor decide the dtype of a model.
        self.register_buffer("packed_values", torch.empty(shapes.values, dtype=shapes.values_dtype, device=device))
        self.register_buffer("packed_scales", torch.empty(shapes.scales, dtype=shapes.scales_dtype, device=device))
        self.register_buffer("packed_zeros", zeros)
        self.bias = None if bias is None else nn.Parameter(bias)

    @property
    def packed(self) -> Packed:
        """The stored weight."""
        return Packed(self.packed_values, self.packed_scales, self.packed_zeros, self.rows, self.columns)

    def hold(self, packed: Packed) -> None:
        """Take over a packed weight of this layer's shape.

        Raises:
            CheckpointError: it has another one.
        """
        check_shapes(packed, self.scheme)
        self.packed_values, self.packed_scales, self.packed_zeros = packed.values, packed.scales, packed.zeros

    def check(self) -> None:
        """Raise CheckpointError unless the stored tensors are what the scheme says: kernels trust them blindly."""
        check_shapes(self.packed, self.scheme)

    def dequantize(self) -> Tensor:
        """The full weight, float32 [rows, columns]."""
        return dequantize(self.packed, self.scheme)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        check_shapes(self.packed, self.scheme)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_PackedWeight":
        scales = self.packed_scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.packed_scales.dtype != scales.dtype:  # `.half()`, `.float()`: scales are part of the stored weight
            self.packed_scales = scales.to(self.packed_scales.device)
        return self


class PackedLinear(_PackedWeight):
    """A linear layer over a packed weight. On the CPU the native kernels multiply, on a GPU Triton's.

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
        self._for_torch: tuple[Tensor, torch.dtype, torch_int4.TorchWeight] | None = None

    @classmethod
    def from_linear(cls, linear: nn.Linear, scheme: QuantScheme) -> "PackedLinear":
        """Quantize one layer by rounding to nearest; the bias is shared, the full weight is not kept.

        Schemes with one scale a row follow the official formula, as `RowwiseLinear` does.
        """
        if scheme.group_size is None:
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

    def forward(self, states: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (states.requires_grad or (self.bias is not None and self.bias.requires_grad)):
            output: Tensor = _Matmul.apply(states, self.bias, self)  # type: ignore[no-untyped-call]
            return output
        return self.multiply(states)

    def multiply(self, states: Tensor) -> Tensor:
        """The product without a backward pass."""
        if states.shape[-1] != self.in_features:
            raise ConfigError(f"the input has {states.shape[-1]} features, this layer takes {self.in_features}")
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
        """The weight as torch's own operators want it, where those are all there is: on Apple's GPUs, and without our
        kernels. Made once; it is held beside the packed one. `torch.compile` sees `packed_linear` everywhere."""
        if self.precise or torch.compiler.is_compiling():
            return None
        device, dtype = states.device, states.dtype
        if missing(device, dtype) is None or torch_int4.supports(self.scheme, device, dtype) is not None:
            return None
        held = self._for_torch
        if held is None or held[0] is not self.packed_values or held[1] != dtype:
            weight = torch_int4.convert(self.packed, self.scheme, device, dtype)
            self._for_torch = held = (self.packed_values, dtype, weight)
        return held[2]

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


class PackedEmbedding(_PackedWeight):
    """An embedding whose rows are stored at 8 bits, one scale each. `dtype` is that of what it gives."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, OFFICIAL[8], device)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.dtype = dtype  # follows `.half()` and `.to()` as the weight of an embedding would

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> "PackedEmbedding":
        """Quantize an embedding: scale = max|row| / 127."""
        weight = embedding.weight.detach()
        layer = cls(*weight.shape, device="meta", dtype=weight.dtype)
        scheme = layer.scheme
        layer.hold(pack(*quantize(weight, scheme), weight.shape[1], scheme))
        return layer

    @classmethod
    def empty_like(cls, embedding: nn.Embedding) -> "PackedEmbedding":
        return cls(*embedding.weight.shape, device=embedding.weight.device, dtype=embedding.weight.dtype)

    @property
    def weight(self) -> Tensor:
        """The full matrix, made when asked for."""
        return self.dequantize().to(self.dtype)

    def to_embedding(self, dtype: torch.dtype | None = None) -> nn.Embedding:
        """A plain embedding with the weight this one stands for."""
        embedding = nn.Embedding(self.num_embeddings, self.embedding_dim, device="meta")
        embedding.weight = nn.Parameter(self.dequantize().to(dtype or self.dtype))
        return embedding

    def forward(self, ids: Tensor) -> Tensor:
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.num_embeddings):
            raise CheckpointError(
                f"ids reach from {int(ids.min())} to {int(ids.max())}; there are {self.num_embeddings}"
            )
        if ids.is_cuda and (gathered := self._gather_on_gpu(ids)) is not None:
            return gathered
        # [rows / 16, columns / 4, 16, 4] -> the columns of one row each
        flat = ids.reshape(-1)
        rows = self.packed_values[flat // 16, :, flat % 16].flatten(1)[:, : self.embedding_dim]
        scales = self.packed_scales[flat // 16, 0, flat % 16]
        return (rows.float() * scales[:, None]).to(self.dtype).reshape(*ids.shape, self.embedding_dim)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedEmbedding":
        super()._apply(fn, recurse)
        probe = torch.empty(0, dtype=self.dtype, device=self.packed_values.device)
        self.dtype = fn(probe).dtype if probe.device.type != "meta" else self.dtype
        return self

    def _gather_on_gpu(self, ids: Tensor) -> Tensor | None:
        from chatglm.quant.kernels.triton_linear import gather, unsuited

        if unsuited(ids.device, self.dtype) is not None:
            return None
        rows, columns = self.num_embeddings, self.embedding_dim
        return gather(ids, self.packed_values, self.packed_scales, None, rows, columns, 8, None, self.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, scheme={self.scheme.name}"
