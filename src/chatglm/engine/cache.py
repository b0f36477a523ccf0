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

    def read(self, layer: int, slots: slice) -> tuple[Tensor, Tensor]:
        """Keys and values [T, G, D] of a stretch of slots; views of an unquantized cache, nothing is copied."""
        states = self.states[:, layer, slots]
        if self.scales is not None:
            states = (states * self.scales[:, layer, slots][..., None]).to(self.dtype)
        return states[0], states[1]


@dataclass(frozen=True, slots=True)
class PagedSequence:
    """One request's part of a step: its new tokens are `start .. start + num_new` of the N packed ones.

    `runs` are the slots of its tokens, cached and new, in order: as few stretches of neighbouring slots as there are.
    """

    start: int
    num_new: int
    runs: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """What the attention function needs to know of a step; handed through the network untouched."""

    cache: KVCache
    slots: Tensor  # [N] where the new tokens' keys and values go
    sequences: list[PagedSequence]
    prefix: Tensor | None = None  # [L, 2, P, G, D] keys and values every sequence starts with (P-Tuning v2)


def runs_of(block_table: Sequence[int], length: int, block_size: int) -> tuple[slice, ...]:
    """The first `length` tokens of a block table as stretches of slots."""
    runs: list[slice] = []
    for index in range(-(-length // block_size)):
        start = block_table[index] * block_size
        stop = start + min(block_size, length - index * block_size)
        if runs and runs[-1].stop == start:
            runs[-1] = slice(runs[-1].start, stop)
        else:
            runs.append(slice(start, stop))
    return tuple(runs)
