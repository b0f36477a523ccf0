"""A paged attention through the native CPU kernels: one call for all requests of a step, reading the cache in place."""

import torch
from torch import Tensor

from chatglm import native
from chatglm.engine.cache import KVCache, PagedBatch
from chatglm.engine.fillings import register_filling


def attend_native(query: Tensor, key: Tensor, value: Tensor, layer: int, batch: PagedBatch, scaling: float) -> Tensor:
    """query [N, H, D], key and value [N, G, D] -> [N, H, D]; computes in float32 whatever the dtypes are."""
    cache = native.cache_of(batch.cache, layer, batch.block_size)
    out = native.attention(cache, native.batch_of(batch), query.float(), key.float(), value.float(), scaling)
    return out.to(query.dtype)


def unsuited(cache: KVCache, with_prefix: bool) -> str | None:
    """Why the kernels cannot attend over a cache."""
    if not cache.states.is_cpu:
        return f"the native kernels read the CPU's memory, the cache lies on {cache.states.device}"
    if not native.available():
        return native.why_not()
    if with_prefix:
        return "the native kernels know no P-Tuning prefix"
    if cache.states.shape[-1] % 16:
        return f"heads have {cache.states.shape[-1]} channels; the native kernels need a multiple of 16"
    if cache.states.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
        return f"the cache holds {cache.states.dtype}"
    return None


register_filling("native", attend_native, unsuited=unsuited, rank=1)
