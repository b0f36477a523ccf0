"""PackedEmbedding: an embedding whose rows are stored at 8 bits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from chatglm.errors import CheckpointError
from chatglm.quant.kernels.rounding import rounded
from chatglm.quant.packed_weight import PackedWeight
from chatglm.quant.packing import pack, quantize
from chatglm.quant.scheme import OFFICIAL


class PackedEmbedding(PackedWeight):
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
        layer.hold(rounded(weight, scheme) or pack(*quantize(weight, scheme), weight.shape[1], scheme))
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
        """Rows of the embedding, ids [...] -> [..., columns].

        An id that is no row gives a row of NaN where it would take waiting for a GPU to see it.

        Raises:
            CheckpointError: on a processor, an id that is no row.
        """
        if ids.is_cuda and (gathered := self._gather_on_gpu(ids)) is not None:
            return gathered
        if ids.is_cpu and not torch.compiler.is_compiling():
            self._require_rows(ids)
        # [rows / 16, columns / 4, 16, 4] -> the columns of one row each
        flat = ids.reshape(-1)
        missing = (flat < 0) | (flat >= self.num_embeddings)
        flat = flat.masked_fill(missing, 0)
        rows = self.packed_values[flat // 16, :, flat % 16].flatten(1)[:, : self.embedding_dim]
        scales = self.packed_scales[flat // 16, 0, flat % 16].masked_fill(missing, torch.nan)
        return (rows.float() * scales[:, None]).to(self.dtype).reshape(*ids.shape, self.embedding_dim)

    def _require_rows(self, ids: Tensor) -> None:
        least, most = (int(ids.min()), int(ids.max())) if ids.numel() else (0, 0)
        if least < 0 or most >= self.num_embeddings:
            raise CheckpointError(f"ids reach from {least} to {most}; there are {self.num_embeddings}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedEmbedding":
        super()._apply(fn, recurse)
        probe = torch.empty(0, dtype=self.dtype, device=self.packed_values.device)
        self.dtype = fn(probe).dtype if probe.device.type != "meta" else self.dtype
        return self

    def _gather_on_gpu(self, ids: Tensor) -> Tensor | None:
        from chatglm.quant.kernels.triton_linear import dequantize, unsuited

        if unsuited(ids.device, self.dtype) is not None:
            return None
        rows, columns = self.num_embeddings, self.embedding_dim
        return dequantize(self.packed_values, self.packed_scales, None, rows, columns, 8, None, self.dtype, ids)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, scheme={self.scheme.name}"
