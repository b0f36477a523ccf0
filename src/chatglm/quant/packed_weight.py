"""PackedWeight: what layers over packed weights share, whatever the scheme and the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.quant.kernels.ops import check_shapes
from chatglm.quant.packing import Packed, Shapes, dequantize
from chatglm.quant.scheme import QuantScheme


def mark(tensor: Tensor) -> tuple[int, int]:
    """Changes when a tensor is replaced, moved or written."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class PackedWeight(nn.Module):
    """What the two layers share: a weight [rows, columns] in packed form that no cast of the model touches."""

    packed_values: Tensor
    packed_scales: Tensor
    packed_zeros: Tensor | None
    _is_hf_initialized = True  # there is nothing that transformers could fill with random numbers

    def __init__(
        self,
        rows: int,
        columns: int,
        scheme: QuantScheme,
        device: torch.device | str | None,
        bias: Tensor | None = None,
    ) -> None:
        nn.Module.__init__(self)  # what else a layer is has no say in what it holds
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedWeight":
        scales = self.packed_scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.packed_scales.dtype != scales.dtype:  # `.half()`, `.float()`: scales are part of the stored weight
            self.packed_scales = scales.to(self.packed_scales.device)
        return self
