"""Attention over the paged cache: a readable reference, and a filling through torch's fused attention.

Registered with transformers under the names below, so the network looks them up like any other attention function.
Because the names have no mask function, transformers builds no mask for them: these functions know the lengths.

Legend: N new tokens of the step (all requests in a row), S new tokens of one request, T its tokens in the cache (the
new ones included), P prefix tokens, H query heads, G key/value heads, D channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.engine.cache import PagedBatch

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
NAMES = {"reference": "chatglm_paged_reference", "sdpa": "chatglm_paged_sdpa"}


def attend_reference(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """softmax(q k^T * scaling) v in float32, each query seeing the keys up to its own; the oracle of the others.

    query [S, H, D], key and value [T, G, D]; the queries are the last S of the T tokens -> [S, H, D].
    """
    num_new, num_heads, _ = query.shape
    length, num_groups, _ = key.shape
    key, value = (states.float().repeat_interleave(num_heads // num_groups, dim=1) for states in (key, value))
    scores = torch.einsum("shd,thd->hst", query.float(), key) * scaling
    later = torch.ones(num_new, length, dtype=torch.bool, device=query.device).triu(length - num_new + 1)
    weights = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
    return torch.einsum("hst,thd->shd", weights, value).to(query.dtype)


def attend_sdpa(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The same through torch's fused attention, without widening the key/value heads.

    A single query views its H heads as H / G rows for each key/value head, so every key is read once; longer pieces
    let the heads of a group share keys through a stride of zero.
    """
    num_new, num_heads, head_dim = query.shape
    length, num_groups, _ = key.shape
    rows = num_heads // num_groups
    key, value = key.transpose(0, 1)[:, None], value.transpose(0, 1)[:, None]  # [G, 1, T, D]
    grouped = query.view(num_new, num_groups, rows, head_dim)
    if num_new == 1:
        out = nn.functional.scaled_dot_product_attention(grouped.transpose(0, 1), key, value, scale=scaling)
        return out.reshape(1, num_heads, head_dim)
    mask = None
    if length > num_new:
        ones = torch.ones(num_new, length, dtype=torch.bool, device=query.device)
        mask = ones.tril(length - num_new)
    out = nn.functional.scaled_dot_product_attention(
        grouped.permute(1, 2, 0, 3),  # [G, rows, S, D]
        key.expand(-1, rows, -1, -1),
        value.expand(-1, rows, -1, -1),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
    )
    return out.permute(2, 0, 1, 3).reshape(num_new, num_heads, head_dim)


def _paged(attend: Attend) -> Callable[..., tuple[Tensor, None]]:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float,
        paged: PagedBatch,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """query [1, H, N, D], key and value [1, G, N, D] -> [1, N, H, D]; new keys and values go into the cache."""
        layer: Any = module.layer_idx
        queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))  # [N, heads, D]
        paged.cache.write(layer, paged.slots, keys, values)
        out = torch.empty_like(queries, memory_format=torch.contiguous_format)
        for sequence in paged.sequences:
            cached_key, cached_value = paged.cache.read(layer, sequence.slots)
            if paged.prefix is not None:
                cached_key = torch.cat((paged.prefix[layer, 0], cached_key))
                cached_value = torch.cat((paged.prefix[layer, 1], cached_value))
            rows = slice(sequence.start, sequence.start + sequence.num_new)
            out[rows] = attend(queries[rows].contiguous(), cached_key, cached_value, scaling)
        return out[None], None

    return attention


def register() -> None:
    """Make the fillings known to transformers' attention interface. Idempotent."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for filling, attend in (("reference", attend_reference), ("sdpa", attend_sdpa)):
        if NAMES[filling] not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register(NAMES[filling], _paged(attend))
