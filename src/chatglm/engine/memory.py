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


def num_blocks(
    model: Any, block_size: int, limit: int | None, most_tokens: int, stored: torch.dtype, step: tuple[int | None, int]
) -> int:
    """Blocks that fit into `limit` bytes (None: a quarter of the free memory; on a GPU all but a reserve).

    `stored` is the cache's dtype; `step` the tokens and the requests of the largest step, which the reserve is for.
    Never more than `most_tokens` tokens could use. On a GPU what is free now has the weights taken off already.
    """
    allowed = limit if limit is not None else _allowed(model, step[0] or 1, step[1])
    per_block = KVCache.bytes_per_token(*cache_shape(model), stored) * block_size
    fitting = min(allowed // per_block, -(-most_tokens // block_size))
    if fitting < 1:
        raise RequestError(
            f"kv_memory allows {allowed} bytes; one block of {block_size} tokens takes {per_block} bytes for this model"
        )
    return int(fitting)


def _allowed(model: Any, tokens: int, requests: int) -> int:
    free = free_memory(model.device)
    if model.device.type != "cuda":
        return free // 4
    return max(0, int(free * _OF_FREE) - step_memory(model, tokens, requests))


def step_memory(model: Any, tokens: int, requests: int) -> int:
    """Bytes that a step takes on a GPU beside weights and cache, from above: what a layer holds at its widest, logits
    and what the sampler makes of them, and room for what tunes itself by trying (kernels, libraries, recordings)."""
    config, size = model.config, torch.empty((), dtype=model.dtype).element_size()
    heads = config.num_attention_heads * config.head_dim
    layer = 4 * config.hidden_size + 3 * heads + 3 * config.intermediate_size  # the gate, its activation, the product
    layer += 4 * config.hidden_size  # norms compute in float32
    logits = requests * config.vocab_size * (size + 4 * _SCORES)
    return int(tokens * layer * size + logits + _TUNING)


def tokens_of_a_step(model: Any) -> int:
    """How many tokens a step should take when nobody says: on a CPU few, so that nobody waits; on a GPU as many as a
    tenth of the memory that is free holds the activations of, and no more than keep it busy."""
    if model.device.type != "cuda":
        return 512
    free, tokens = free_memory(model.device), _MOST_STEP
    while tokens > 512 and step_memory(model, tokens, 0) - _TUNING > free * _FOR_ACTIVATIONS:
        tokens //= 2
    return tokens


_OF_FREE = 0.97  # what an allocator cannot give any more, in pieces too small
_TUNING = 768 * 2**20
_SCORES = 5  # float32 rows the sampler may hold for each row of logits: scores, sorted, probabilities, sums, noise
_MOST_STEP = 8192
_FOR_ACTIVATIONS = 0.1


def context_memory(model: Any) -> int:
    """Bytes of cache for one full context of a model, at most half of what is free."""
    return min(memory_for(model, int(model.config.max_position_embeddings)), free_memory(model.device) // 2)


def memory_for(model: Any, num_tokens: int, block_size: int = 16) -> int:
    """Bytes of cache in whole blocks for so many tokens, in the model's dtype."""
    per_token = KVCache.bytes_per_token(*cache_shape(model), model.dtype)
    return -(-num_tokens // block_size) * block_size * per_token
