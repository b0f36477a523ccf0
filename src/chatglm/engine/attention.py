"""Attention over the paged cache: a readable reference, and a filling through torch's fused attention.

Our networks are handed the filling (see `fillings.py`) as the attention function of a call. Stock GLM looks it up in
transformers' table like any other; because its name has no mask function there, no mask is built: it knows the lengths.

Legend: N new tokens of the step (all requests in a row), S new tokens of one request, T its tokens in the cache (the
new ones included), P prefix tokens, H query heads, G key/value heads, D channels, R requests, W blocks a table.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.engine.cache import PagedBatch
from chatglm.engine.fillings import Attend, Filling, register_filling

Parts = Sequence[tuple[Tensor, Tensor]]  # keys and values [t, G, D] of the stretches a request's tokens lie in
AttendOne = Callable[[Tensor, Parts, float], Tensor]


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
    """A piece of a prompt."""
    num_new, length = query.shape[0], key.shape[0]
    mask: Any = None
    if length > num_new and query.is_cuda:
        mask = _ends_at_the_last(num_new, length)
    elif length > num_new:
        mask = torch.ones(num_new, length, dtype=torch.bool, device=query.device).tril(length - num_new)
    return _attend_grouped(query, key, value, mask, scaling)


def _attend_grouped(query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float) -> Tensor:
    """The heads of a group share their keys, which lie there once: groups are the batch, and heads a stride of 0.
    Without a `mask` it is causal."""
    num_new, num_heads, head_dim = query.shape
    num_groups = key.shape[1]
    rows = num_heads // num_groups
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


def _ends_at_the_last(num_new: int, length: int) -> Any:
    """A causal mask that ends in the lower right corner, said in words: FlashAttention takes no mask tensor."""
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right(num_new, length)


def each_alone(attend: AttendOne) -> Attend:
    """A filling that attends one request after another, over the stretches its tokens lie in."""

    def attend_all(query: Tensor, key: Tensor, value: Tensor, layer: int, batch: PagedBatch, scaling: float) -> Tensor:
        batch.cache.write(layer, batch.slots, key, value)
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for sequence in batch.sequences:
            rows = slice(sequence.start, sequence.start + sequence.num_new)
            out[rows] = attend(query[rows].contiguous(), parts_of(batch, layer, sequence.runs), scaling)
        return out

    return attend_all


def parts_of(batch: PagedBatch, layer: int, runs: Sequence[slice]) -> Parts:
    """Keys and values of some stretches, after those of the prefix where there is one."""
    parts = [batch.cache.read(layer, run) for run in runs]
    if batch.prefix is not None:
        parts.insert(0, (batch.prefix[layer, 0], batch.prefix[layer, 1]))
    return parts


def attend_prefix_lm(
    query: Tensor, key: Tensor, value: Tensor, layer: int, batch: PagedBatch, scaling: float
) -> Tensor:
    """For networks whose prompts see themselves both ways (ChatGLM-6B): whole prompts, and any tokens behind them."""
    batch.cache.write(layer, batch.slots, key, value)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for sequence in batch.sequences:
        rows = slice(sequence.start, sequence.start + sequence.num_new)
        parts, asked = parts_of(batch, layer, sequence.runs), query[rows].contiguous()
        if sequence.num_new == 1:
            out[rows] = attend_sdpa(asked, parts, scaling)
            continue
        keys, values = join(parts)
        total, before = keys.shape[0], 0 if batch.prefix is None else batch.prefix.shape[2]
        seen = torch.ones(sequence.num_new, total, dtype=torch.bool, device=query.device).tril(total - sequence.num_new)
        seen[:, : before + sequence.context] = True
        q, k, v = (states.transpose(0, 1)[None] for states in (asked, keys, values))  # [1, H, tokens, D]
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling)
        out[rows] = found[0].transpose(0, 1)
    return out


def decode_gathered(query: Tensor, key: Tensor, value: Tensor, layer: int, batch: PagedBatch, scaling: float) -> Tensor:
    """One token a request, fixed shapes, plain torch: every table is gathered whole, and a mask hides what is not
    the request's. A kernel that reads the cache where it lies is better; this one runs anywhere."""
    batch.cache.write(layer, batch.slots, key, value)
    num_requests, num_heads, head_dim = query.shape
    within = torch.arange(batch.block_size, device=query.device)
    slots = (batch.block_tables.long()[..., None] * batch.block_size + within).flatten(1)  # [R, W * block_size]
    # A padding row has no tokens, and a softmax needs one; its output is thrown away.
    seen = torch.arange(slots.shape[1], device=query.device) < batch.lengths.clamp_min(1)[:, None]
    # What lies in slots never written can be NaN, and 0 * NaN is NaN.
    keys, values = (
        states.masked_fill(~seen[..., None, None], 0).transpose(1, 2) for states in batch.cache.read(layer, slots)
    )  # [R, G, T, D]
    if batch.prefix is not None:
        before = batch.prefix[layer].transpose(1, 2)[:, None].expand(-1, num_requests, -1, -1, -1)  # [2, R, G, P, D]
        keys, values = torch.cat((before[0], keys), dim=2), torch.cat((before[1], values), dim=2)
        seen = torch.cat((seen.new_ones(num_requests, before.shape[3]), seen), dim=1)
    rows = query.reshape(num_requests, keys.shape[1], -1, head_dim)
    out = nn.functional.scaled_dot_product_attention(
        rows, keys, values, attn_mask=seen[:, None, None, :], scale=scaling
    )
    return out.reshape(num_requests, num_heads, head_dim)


def for_network(filling: Filling) -> Callable[..., tuple[Tensor, None]]:
    """A filling as an attention function of transformers' interface."""

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
        attend = filling.decode if paged.static and filling.decode is not None else filling.attend
        queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))  # [N, heads, D]
        return attend(queries, keys, values, layer, paged, scaling)[None], None

    return attention


def name_for_network(filling: Filling) -> str:
    """Make a filling known to transformers' attention interface -> the name it has there."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = f"chatglm_paged_{filling.name}"
    if _known.get(name) != filling:  # new, or replaced under its name
        ALL_ATTENTION_FUNCTIONS.register(name, for_network(filling))
        _known[name] = filling
    return name


_known: dict[str, Filling] = {}
register_filling("reference", each_alone(attend_reference), decode=decode_gathered, rank=-1)
register_filling("sdpa", each_alone(attend_sdpa), decode=decode_gathered)
register_filling("prefix_lm", attend_prefix_lm, rank=-2)  # chosen for the networks that need it, see `parts.py`
