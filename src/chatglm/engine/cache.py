"""The memory of keys and values: one pool of slots for all requests, addressed through block tables.

Legend: L layers, C slots (blocks * block_size), G key/value heads, D channels, N new tokens of a step, P prefix tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every slot, [L, C, G, D] each; as stored in `dtype`, or as int8 with a scale per head.

    INT8 stores round(x / scale) with scale = max|x| / 127 over the D channels of one head of one token.
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
    ) -> None:
        self.dtype, self.quantized = dtype, quantized
        shape = (2, num_layers, num_slots, num_heads, head_dim)
        self.states = torch.empty(shape, dtype=torch.int8 if quantized else dtype, device=device)
        self.scales = torch.empty(shape[:-1], dtype=torch.float32, device=device) if quantized else None

    @staticmethod
    def bytes_per_token(
        num_layers: int, num_heads: int, head_dim: int, dtype: torch.dtype, quantized: bool = False
    ) -> int:
        """Memory of one token's keys and values in all layers."""
        per_head = head_dim + 4 if quantized else head_dim * dtype.itemsize
        return 2 * num_layers * num_heads * per_head

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store `key` and `value` [N, G, D] of one layer at `slots` [N]."""
        for which, states in enumerate((key, value)):
            if self.scales is None:
                self.states[which, layer].index_copy_(0, slots, states.to(self.dtype))
                continue
            scale = states.float().abs().amax(dim=-1).clamp_min(1e-12) / 127
            quantized = (states.float() / scale[..., None]).round_().to(torch.int8)
            self.states[which, layer].index_copy_(0, slots, quantized)
            self.scales[which, layer].index_copy_(0, slots, scale)

    def read(self, layer: int, slots: "slice | Tensor") -> tuple[Tensor, Tensor]:
        """Keys and values [T, G, D] at `slots`: a view for a slice of an unquantized cache, else a copy."""
        states = self.states[:, layer, slots]
        if self.scales is not None:
            states = (states * self.scales[:, layer, slots][..., None]).to(self.dtype)
        return states[0], states[1]


@dataclass(slots=True)
class PagedSequence:
    """One request's part of a step: its new tokens are `start .. start + num_new` of the N packed ones."""

    start: int
    num_new: int
    length: int  # tokens with keys after this step: cached, then new
    slots: "slice | Tensor"  # where those `length` tokens lie, in order


@dataclass(slots=True)
class PagedBatch:
    """What the attention function needs to know of a step; handed through the network untouched."""

    cache: KVCache
    slots: Tensor  # [N] where the new tokens' keys and values go
    sequences: list[PagedSequence]
    prefix: Tensor | None = None  # [L, 2, P, G, D] keys and values every sequence starts with (P-Tuning v2)


def slots_of(block_table: Sequence[int], length: int, block_size: int, device: torch.device) -> "slice | Tensor":
    """Slots of the first `length` tokens of a block table; a slice where the blocks lie in a row."""
    used = block_table[: -(-length // block_size)]
    first = used[0]
    if all(block == first + index for index, block in enumerate(used)):
        return slice(first * block_size, first * block_size + length)
    blocks = torch.tensor(used, device=device)
    offsets = torch.arange(block_size, device=device)
    return (blocks[:, None] * block_size + offsets).flatten()[:length]
