"""RowwiseEmbedding: an embedding that keeps the official storage of ChatGLM-6B-int4-qe and reads rows out of it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from chatglm.quant import rowwise


class RowwiseEmbedding(nn.Module):
    """An embedding over row-wise INT8 or packed INT4 storage, under the names of official files.

    Shapes: `weight` int8 [rows, columns * bits / 8], `weight_scale` [rows], whose dtype no cast changes. `dtype` is
    that of what it gives, and follows casts as the weight of an embedding would. Fresh modules are empty.
    """

    def __init__(self, embedding: nn.Embedding, bits: int, scale_dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        rowwise.check_bits(bits)
        (rows, columns), device = embedding.weight.shape, embedding.weight.device
        self.bits, self.dtype = bits, embedding.weight.dtype
        stored = torch.empty(rows, columns * bits // 8, dtype=torch.int8, device=device)
        self.weight = nn.Parameter(stored, requires_grad=False)
        scale = torch.empty(rows, dtype=scale_dtype, device=device)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the embedding, ids [...] -> [..., columns]."""
        flat = ids.reshape(-1)
        scales = self.weight_scale[flat].to(self.dtype)
        rows = rowwise.dequantize(self.weight[flat], scales, self.bits)
        return rows.reshape(*ids.shape, rows.shape[-1])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RowwiseEmbedding":
        scale = self.weight_scale.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.dtype = self.dtype if scale.is_meta else fn(scale.new_empty(0, dtype=self.dtype)).dtype
        if self.weight_scale.dtype != scale.dtype:
            self.weight_scale.data = scale.to(self.weight_scale.device)
        return self
