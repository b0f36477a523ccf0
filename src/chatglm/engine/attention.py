"""Attention over the paged cache: a readable reference, and a filling through torch's fused attention.

Registered with transformers under the names below, so the network looks them up like any other attention function.
Because the names have no mask function, transformers builds no mask for them: these functions know the lengths.

Legend: N new tokens of the step (all requests in a row), S new tokens of one request, T its tokens in the cache (the
new ones included), P prefix tokens, H query heads, G key/value heads, D channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.engine.cache import PagedBatch

Parts = Sequence[tuple[Tensor, Tensor]]  # keys and values [t, G, D] of the stretches a request's tokens lie in
Attend = Callable[[Tensor, Parts, float], Tensor]
NAMES = {"reference": "chatglm_paged_reference", "sdpa": "chatglm_paged_sdpa"}


def join(parts: Parts) -> tuple[Tensor, Tensor]:
    """All keys and all values [T, G, D]; copies where there is more than one part."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([key for key, _ in parts]), torch.cat([value for _, value in parts])


def attend_reference(query: Tensor, parts: Parts, scaling: float) -> Tensor:
    """softmax(q k^T * scaling) v in float32, each query seeing the keys up to its own; the oracle of the others.

    query [S, H, D], the parts T tokens in all; the queries are the last S of them -> [S, H, D].
    """
    key, value = join(parts)
    num_new, num_heads, _ = query.shape
    length, num_groups, _ = key.shape
    key, value = (states.float().repeat_interleave(num_heads // num_groups, dim=1) for states in (key, value))
    scores = torch.einsum("shd,thd->hst", query.float(), key) * scaling
    later = torch.ones(num_new, length, dtype=torch.bool, device=query.device).triu(length - num_new + 1)
    weights = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
    return torch.einsum("hst,thd->shd", weights, value).to(query.dtype)


def attend_sdpa(query: Tensor, parts: Parts, scaling: float) -> Tensor:
    """The same through torch's fused attention, without widening the key/value heads."""
    if query.shape[0] > 1:
        return _attend_many(query, *join(parts), scaling)
    if len(parts) == 1 or query.device.type != "cpu" or len(parts) > _MOST_PARTS:
        return _attend_one(query, *join(parts), scaling)
    return _attend_one_in_parts(query, parts, scaling)


_MOST_PARTS = 16  # beyond, copying the parts together costs less than a kernel call for each


def _attend_one(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """One query: its H heads are H / G rows for each key/value head, so that every key is read once."""
    _, num_heads, head_dim = query.shape
    rows = query.view(1, key.shape[1], -1, head_dim)
    key, value = key.transpose(0, 1)[None], value.transpose(0, 1)[None]  # [1, G, T, D]
    out = nn.functional.scaled_dot_product_attention(rows, key, value, scale=scaling)
    return out.reshape(1, num_heads, head_dim)


def _attend_one_in_parts(query: Tensor, parts: Parts, scaling: float) -> Tensor:
    """`_attend_one` over each part where it lies, weighed by the softmax denominators (arXiv:2205.14135)."""
    _, num_heads, head_dim = query.shape
    rows = query.view(1, parts[0][0].shape[1], -1, head_dim)
    outs, sums = [], []
    for key, value in parts:
        out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            rows, key.transpose(0, 1)[None], value.transpose(0, 1)[None], scale=scaling
        )
        outs.append(out)
        sums.append(log_sum)
    weights = torch.stack(sums).softmax(dim=0)[..., None]  # [parts, 1, G, rows, 1] in float32
    out = (torch.stack(outs) * weights).sum(dim=0)
    return out.to(query.dtype).reshape(1, num_heads, head_dim)


def _attend_many(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """A piece of a prompt: the heads of a group share their keys through a stride of zero."""
    num_new, num_heads, head_dim = query.shape
    length, num_groups, _ = key.shape
    rows = num_heads // num_groups
    mask = None
    if length > num_new:
        mask = torch.ones(num_new, length, dtype=torch.bool, device=query.device).tril(length - num_new)
    key, value = (part.transpose(0, 1)[:, None].expand(-1, rows, -1, -1) for part in (key, value))
    out = nn.functional.scaled_dot_product_attention(
        query.view(num_new, num_groups, rows, head_dim).permute(1, 2, 0, 3),  # [G, rows, S, D]
        key,
        value,
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
            parts = [paged.cache.read(layer, run) for run in sequence.runs]
            if paged.prefix is not None:
                parts.insert(0, (paged.prefix[layer, 0], paged.prefix[layer, 1]))
            rows = slice(sequence.start, sequence.start + sequence.num_new)
            out[rows] = attend(queries[rows].contiguous(), parts, scaling)
        return out[None], None

    return attention


def register() -> None:
    """Make the fillings known to transformers' attention interface. Idempotent."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for filling, attend in (("reference", attend_reference), ("sdpa", attend_sdpa)):
        if NAMES[filling] not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register(NAMES[filling], _paged(attend))
