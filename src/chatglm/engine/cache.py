"""The memory of keys and values: one pool of slots for all requests, addressed through block tables.

Legend: L layers, C slots (blocks * block_size), G key/value heads, D channels, N new tokens of a step, R requests of a
step, W blocks of the longest table, P prefix tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KV_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "int8": torch.int8,
}


def stored_dtype(kv_dtype: str, model_dtype: torch.dtype) -> torch.dtype:
    """The dtype of a cache for `EngineConfig.kv_dtype`."""
    return model_dtype if kv_dtype == "model" else KV_DTYPES[kv_dtype]


class KVCache:
    """Keys and values of every slot, [2, L, C + 1, G, D]; in any float dtype, or as int8 with a scale per head.

    INT8 stores round(x / scale) with scale = max|x| / 127 over the D channels of one head of one token. The one slot
    too many, `num_slots`, is where the padding of a step with fixed shapes is written.

    Args:
        dtype: what `read` gives and the network computes in.
        quantized: store int8.
        stored: store another float dtype than `dtype` (torch.int8 is `quantized`).
    """

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        quantized: bool = False,
        stored: torch.dtype | None = None,
    ) -> None:
        self.dtype, self.num_slots = dtype, num_slots
        self.quantized = quantized or stored == torch.int8
        self.stored = torch.int8 if self.quantized else stored or dtype
        shape = (2, num_layers, num_slots + 1, num_heads, head_dim)
        self.states = torch.empty(shape, dtype=self.stored, device=device)
        self.scales = torch.empty(shape[:-1], dtype=torch.float32, device=device) if self.quantized else None

    @staticmethod
    def bytes_per_token(
        num_layers: int, num_heads: int, head_dim: int, dtype: torch.dtype, quantized: bool = False
    ) -> int:
        """Memory of one token's keys and values in all layers."""
        per_head = head_dim + 4 if quantized or dtype == torch.int8 else head_dim * dtype.itemsize
        return 2 * num_layers * num_heads * per_head

    @property
    def nbytes(self) -> int:
        """Memory of the whole pool."""
        return self.states.nbytes + (self.scales.nbytes if self.scales is not None else 0)

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store `key` and `value` [N, G, D] of one layer at `slots` [N]."""
        for which, states in enumerate((key, value)):
            if self.scales is None:
                self.states[which, layer].index_copy_(0, slots, states.to(self.stored))
                continue
            scale = states.float().abs().amax(dim=-1).clamp_min(1e-12) / 127
            quantized = (states.float() / scale[..., None]).round_().to(torch.int8)
            self.states[which, layer].index_copy_(0, slots, quantized)
            self.scales[which, layer].index_copy_(0, slots, scale)

    def read(self, layer: int, slots: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [T, G, D] of a stretch of slots: views where they are stored as computed, else converted.

        A tensor of slots of any shape is gathered: [..., G, D].
        """
        states = self.states[:, layer, slots]
        if self.scales is not None:
            states = (states * self.scales[:, layer, slots][..., None]).to(self.dtype)
        elif self.stored != self.dtype:
            states = states.to(self.dtype)
        return states[0], states[1]


@dataclass(frozen=True, slots=True)
class PagedSequence:
    """One request's part of a step: its new tokens are `start .. start + num_new` of the N packed ones.

    `runs` are the slots of its tokens, cached and new, in order: as few stretches of neighbouring slots as there are.
    `context`: so many tokens at its beginning are seen by all, those before them too; only `prefix_lm` knows it.
    """

    start: int
    num_new: int
    runs: tuple[slice, ...]
    context: int = 0


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """What the attention function needs to know of a step; handed through the network untouched, read by every layer.

    The tensors say for kernels what `sequences` says for Python. All lie on the cache's device; the last dimension of
    each has stride 1. With `static`, every request has one new token, requests of length 0 are padding, and
    `sequences` is empty.
    """

    cache: KVCache
    slots: Tensor  # [N] int64: where the new tokens' keys and values go
    sequences: Sequence[PagedSequence]
    block_tables: Tensor  # [R, W] int32: blocks of each request in order; what is beyond its length means nothing
    lengths: Tensor  # [R] int32: tokens of each request in the cache, new ones included
    query_starts: Tensor  # [R + 1] int32: request r's new tokens are query_starts[r] .. query_starts[r + 1]
    block_size: int
    prefix: Tensor | None = None  # [L, 2, P, G, D] keys and values every sequence starts with (P-Tuning v2)
    static: bool = False

    @property
    def decoding(self) -> bool:
        """Whether every request has exactly one new token."""
        return self.slots.shape[0] == self.lengths.shape[0]
