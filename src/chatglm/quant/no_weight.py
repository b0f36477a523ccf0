"""NoWeight: what a quantized linear layer shows as `weight`, so that nobody changes a weight that is not there."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from chatglm.errors import CheckpointError
from chatglm.quant.packing import Packed

# What may be asked about it.
_FACTS = (Tensor.dtype, Tensor.device, Tensor.shape, Tensor.ndim, Tensor.requires_grad, Tensor.is_cuda, Tensor.is_meta)


class NoFullWeightError(CheckpointError):
    """Something wants to read or change the full weight of a quantized layer."""


class NoWeight(Tensor):
    """A float32 tensor [out, in] with a device and without numbers: everything done with it is an error.

    A tensor made afresh would be worse: peft merges an adapter by adding to `weight`, and the sum would be lost unseen.
    """

    scheme: str

    @classmethod
    def of(cls, packed: Packed, scheme: str) -> "NoWeight":
        """In place of the weight a packed one stands for."""
        shown = torch.empty((), device=packed.values.device).expand(packed.rows, packed.columns).as_subclass(cls)
        shown.scheme = scheme
        return shown

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__self__", None) in _FACTS:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        scheme = next((each.scheme for each in args if isinstance(each, NoWeight)), "fewer bits")
        raise NoFullWeightError(
            f"a layer quantized to {scheme} has no full weight, so an adapter cannot be merged into it; load the base "
            "model with dequantize=True, merge there, and quantize the result. `dequantize()` of the layer makes the "
            "weight it stands for"
        )
