"""Weights that are stored smaller than they are: what the room that knows them does for this one.

`chatglm.quant` is that room and stands above this one, so it is handed in: `chatglm/_registration.py` says where it is
to be found, and nothing of it is imported before a folder with such weights is met.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # `import chatglm` loads this file, and must not load torch
    import torch
    from torch import Tensor, nn

Shape = tuple[int, ...]


class SmallerWeights(Protocol):
    """The two forms of quantized folders: official row-wise files, and packed ones with a `quantization_config`."""

    def stored_shapes(self, shapes: Mapping[str, Shape], config: Any) -> dict[str, Shape]:
        """The tensors of a full model as a packed folder holds them, in the same order."""

    def full_weight(self, layer: str, shape: Shape, config: Any, read: "Callable[[str], Tensor]") -> "Tensor":
        """The full weight of a layer of a packed folder, float32 [out, in]; `read` gives the folder's tensors."""

    def full_rowwise(self, values: "Tensor", scale: "Tensor", bits: int) -> "Tensor":
        """The full weight [out, in] of a row-wise one, in the dtype of its scale [out]."""

    def loading_options(self, config: Any, scale_dtype: "torch.dtype | None") -> dict[str, Any]:
        """What transformers' `from_pretrained` must be told so that the weights stay as small as they are stored."""

    def unpack(self, model: "nn.Module") -> None:
        """Give a model with packed layers full weights, in place."""


_PROVIDERS: list[Callable[[], SmallerWeights]] = []


def provide(provider: Callable[[], SmallerWeights]) -> None:
    """Say where the room is to be had; `provider` imports it when it is first needed."""
    _PROVIDERS[:] = [provider]


def smaller_weights() -> SmallerWeights:
    """The room that knows quantized weights."""
    return _PROVIDERS[0]()
