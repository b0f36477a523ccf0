"""The engine's paged batch as the kernels take it. Knows the batch by its fields, not by its class."""

from typing import Any

import torch

from chatglm.native.library import available
from chatglm.native.structures import Batch, Cache

_STORED = (torch.float32, torch.float16, torch.bfloat16, torch.int8)


def readable(paged: Any) -> bool:
    """Whether the kernels can attend over the cache of a step: on the CPU, in a known dtype, without a prefix."""
    states = paged.cache.states
    fits = states.is_cpu and states.dtype in _STORED and states.shape[-1] % 16 == 0
    return fits and paged.prefix is None and available()


def cache_of(cache: Any, layer: int, block_size: int) -> Cache:
    """A layer's part of the engine's cache."""
    scales = None if cache.scales is None else (cache.scales[0, layer], cache.scales[1, layer])
    return Cache(cache.states[0, layer], cache.states[1, layer], scales, block_size)


def batch_of(paged: Any) -> Batch:
    """The tables of a step."""
    return Batch(paged.slots, paged.lengths, paged.query_starts, paged.block_tables)
