"""How much memory the cache may take."""

import os
from pathlib import Path
from typing import Any

import torch

from chatglm.engine.cache import KVCache
from chatglm.errors import RequestError


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken now on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = [amount for amount in (_available(), _left_to_the_container()) if amount is not None]
    if available:
        return min(available)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not told by this system (macOS): half of all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _available() -> int | None:
    """What Linux would give: free pages, and those of files that can be read again (a mapped model is such a file)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_to_the_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves (control groups, version 2), None without one."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)


def cache_shape(model: Any) -> tuple[int, int, int]:
    """(layers, key/value heads, channels per head) of a network, ours or stock GLM."""
    config = model.config
    return config.num_hidden_layers, _heads_here(model, config.num_key_value_heads), config.head_dim


def _heads_here(model: Any, heads: int) -> int:
    """Key/value heads that this process computes: with tensor parallelism transformers shards stock layers."""
    weights = [weight for name, weight in model.named_parameters() if name.endswith("layers.0.self_attn.k_proj.weight")]
    if not weights or not hasattr(weights[0], "to_local"):
        return heads
    shard: torch.Tensor = weights[0].to_local()
    return heads * int(shard.shape[0]) // int(weights[0].shape[0])


def num_blocks(model: Any, block_size: int, limit: int | None, most_tokens: int, stored: torch.dtype) -> int:
    """Blocks that fit into `limit` bytes (None: a quarter of the free memory, nine tenths on a GPU).

    `stored` is the cache's dtype. Never more than `most_tokens` tokens could use. On a GPU what is free now has the
    weights taken off already.
    """
    device: torch.device = model.device
    share = 0.9 if device.type == "cuda" else 0.25
    allowed = limit if limit is not None else int(free_memory(device) * share)
    per_block = KVCache.bytes_per_token(*cache_shape(model), stored) * block_size
    fitting = min(allowed // per_block, -(-most_tokens // block_size))
    if fitting < 1:
        raise RequestError(
            f"kv_memory allows {allowed} bytes; one block of {block_size} tokens takes {per_block} bytes for this model"
        )
    return int(fitting)


def context_memory(model: Any) -> int:
    """Bytes of cache for one full context of a model, at most half of what is free."""
    return min(memory_for(model, int(model.config.max_position_embeddings)), free_memory(model.device) // 2)


def memory_for(model: Any, num_tokens: int, block_size: int = 16) -> int:
    """Bytes of cache in whole blocks for so many tokens, in the model's dtype."""
    per_token = KVCache.bytes_per_token(*cache_shape(model), model.dtype)
    return -(-num_tokens // block_size) * block_size * per_token
