"""Attention for training on packed rows: each example of a row by itself, instead of a mask over the whole row.

What a token may see is the same; the work is not. A row of 2,048 tokens that holds twenty examples of equal length has
4.2 million pairs of tokens, its examples 0.2 million.
"""

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

_LONGEST_TABLE = 1024  # tokens up to which all scores of an example are held at once, in bfloat16 on a CPU


def runs(segments: Tensor) -> list[int]:
    """Lengths of the stretches of equal numbers in `segments` [B, S], row by row; none goes over the end of a row."""
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = begins.flatten().nonzero().flatten().tolist()
    return [end - start for start, end in pairwise([*starts, segments.numel()])]


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    runs: list[int],
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each run of the rows, `runs` as above.

    query [B, H, S, D], key and value [B, G, S, D] -> [B, S, H, D]. There is no cache and no prefix here.
    """
    if key.shape[2] != query.shape[2]:
        raise ValueError(f"{key.shape[2]} keys for {query.shape[2]} tokens: packed rows know no cache and no prefix")
    rows, columns = query.shape[0], query.shape[2]
    # Under autocast the products give bfloat16 and the rotary tables make float32 of it again.
    query, key, value = (part.to(value.dtype).transpose(0, 1).flatten(1, 2) for part in (query, key, value))
    if value.device.type == "cuda" and value.dtype in (torch.float16, torch.bfloat16) and not dropout:
        found = _at_once(query, key, value, scaling, runs)
    else:
        parts = zip(query.split(runs, dim=1), key.split(runs, dim=1), value.split(runs, dim=1), strict=True)
        found = torch.cat([_example(q, k, v, scaling, dropout) for q, k, v in parts], dim=1)
    return found.unflatten(1, (rows, columns)).permute(1, 2, 0, 3).contiguous(), None


def _at_once(query: Tensor, key: Tensor, value: Tensor, scaling: float, runs: list[int]) -> Tensor:
    """All runs in one kernel of FlashAttention; query [H, B S, D], key and value [G, B S, D] -> [H, B S, D]."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *accumulate(runs)], dtype=torch.int32, device=query.device)
    query, key, value = (part.transpose(0, 1).contiguous() for part in (query, key, value))
    longest = max(runs)
    found = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
    )
    assert isinstance(found, Tensor)
    return found.transpose(0, 1)


def _example(query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float) -> Tensor:
    """query [H, L, D], key and value [G, L, D] -> [H, L, D]."""
    length = query.shape[1]
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or length > _LONGEST_TABLE:
        return nn.functional.scaled_dot_product_attention(
            query[None], key[None], value[None], dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
        )[0]
    # Two to three times as fast there as the fused kernel, whose backward pass is slow in bfloat16.
    rows = (query * scaling).unflatten(0, (key.shape[0], -1)).flatten(1, 2)  # [G, H / G * L, D]: one product a group
    scores = torch.matmul(rows, key.transpose(1, 2)).unflatten(1, (-1, length))
    hidden = torch.full((length, length), float("-inf"), dtype=scores.dtype).triu(1)
    weights = nn.functional.dropout(torch.softmax(scores + hidden, dim=-1), dropout)
    return torch.matmul(weights.flatten(1, 2), value).reshape(query.shape)
