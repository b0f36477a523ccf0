"""The filling for GPUs: new tokens of running requests through a Triton kernel, prompts through FlashAttention.

The kernels are in `triton_kernels.py`, which is imported when they first run.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from chatglm.engine.attention import attend_sdpa, parts_of
from chatglm.engine.cache import KVCache, PagedBatch
from chatglm.engine.fillings import register_filling

_MOST_SHARES = 128


def attend_triton(query: Tensor, key: Tensor, value: Tensor, layer: int, batch: PagedBatch, scaling: float) -> Tensor:
    """All sequences of a step: those with one new token in one kernel, the others one after another."""
    from chatglm.engine import triton_kernels

    triton_kernels.write(batch, layer, key, value)
    singles = next((i for i, one in enumerate(batch.sequences) if one.num_new > 1), len(batch.sequences))
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    if singles:
        out[:singles] = _decode(query[:singles], layer, batch, scaling)
    for sequence in batch.sequences[singles:]:
        rows = slice(sequence.start, sequence.start + sequence.num_new)
        out[rows] = attend_sdpa(query[rows].contiguous(), parts_of(batch, layer, sequence.runs), scaling)
    return out


def decode_triton(query: Tensor, key: Tensor, value: Tensor, layer: int, batch: PagedBatch, scaling: float) -> Tensor:
    """One new token a request, fixed shapes."""
    from chatglm.engine import triton_kernels

    triton_kernels.write(batch, layer, key, value)
    return _decode(query, layer, batch, scaling)


def _decode(query: Tensor, layer: int, batch: PagedBatch, scaling: float) -> Tensor:
    from chatglm.engine import triton_kernels

    count = query.shape[0]
    shares = num_shares(count * batch.cache.states.shape[3], query.device)
    return triton_kernels.decode(
        query, batch, layer, batch.block_tables[:count], batch.lengths[:count], scaling, shares
    )


def num_shares(programs: int, device: torch.device) -> int:
    """Into how many shares to split each request's tokens, so that there is work for the whole GPU twice over."""
    cores = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
    return min(_MOST_SHARES, max(1, 2 * cores // programs))


def unsuited(cache: KVCache, with_prefix: bool) -> str | None:
    """Why this filling cannot be used."""
    if cache.states.device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if with_prefix:
        return "it does not know P-Tuning prefixes"
    if find_spec("triton") is None:
        return "Triton is not installed (PyTorch's CUDA builds bring it)"
    return None


register_filling("triton", attend_triton, decode=decode_triton, unsuited=unsuited, rank=10)
