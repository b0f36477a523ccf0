# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,no-untyped-def"
"""Triton kernels over the paged cache: writing keys and values, and attention of one new token a request.

Decoding reads every cached key and value once and computes little with it, so what counts is that the reads are spread
over the whole GPU: each request's tokens are split into shares, attended independently, and the shares are merged by
the logarithms of their softmax denominators ("flash-decoding", after arXiv:2205.14135). All query heads of a group are
rows of one matrix product, so a key is read once for all of them.

Imported only where Triton is installed. With TRITON_INTERPRET=1 the kernels run on a CPU.

Legend: R requests, N new tokens, H query heads, G key/value heads, D channels, S shares.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from chatglm.engine.cache import PagedBatch

_TILE = 32  # cached tokens a program looks at together
_LEAST_ROWS = 16  # of a matrix product on tensor cores; also the least of its inner size


@triton.jit
def _rounded(x):
    """To the nearest whole number, halves to even: at this size float32 has no fractions."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _store(states, stored, scales, place, scale_place, inside, QUANTIZED: tl.constexpr):
    if QUANTIZED:
        wide = states.to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(wide), axis=0), 1e-12) / 127
        tl.store(stored + place, _rounded(wide / scale).to(tl.int8), mask=inside)
        tl.store(scales + scale_place, scale)
    else:
        tl.store(stored + place, states.to(stored.dtype.element_ty), mask=inside)


@triton.jit
def _write_kernel(
    key, value, slots, keys, values, key_scales, value_scales,
    key_stride, key_head_stride, value_stride, value_head_stride,
    D: tl.constexpr, D_PADDED: tl.constexpr, QUANTIZED: tl.constexpr,
):  # fmt: skip
    """One program for each new token and key/value head."""
    token, group, groups = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    channel = tl.arange(0, D_PADDED)
    inside = channel < D
    scale_place = tl.load(slots + token) * groups + group
    place = scale_place * D + channel
    new_key = tl.load(key + token * key_stride + group * key_head_stride + channel, mask=inside, other=0.0)
    _store(new_key, keys, key_scales, place, scale_place, inside, QUANTIZED)
    new_value = tl.load(value + token * value_stride + group * value_head_stride + channel, mask=inside, other=0.0)
    _store(new_value, values, value_scales, place, scale_place, inside, QUANTIZED)


@triton.jit
def _share_kernel(
    query, keys, values, key_scales, value_scales, tables, lengths, shares, log_sums, scaling,
    query_stride, head_stride, table_stride, num_shares,
    BLOCK_SIZE: tl.constexpr, HEADS: tl.constexpr, ROWS: tl.constexpr,
    D: tl.constexpr, D_PADDED: tl.constexpr, TILE: tl.constexpr, QUANTIZED: tl.constexpr,
):  # fmt: skip
    """One program for each request, key/value head and share of the request's tokens; HEADS query heads a group."""
    request, group, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    groups = tl.num_programs(1)
    length = tl.load(lengths + request)
    size = tl.cdiv(tl.cdiv(length, num_shares), TILE) * TILE
    first = share * size
    stop = tl.minimum(first + size, length)
    row, channel = tl.arange(0, ROWS), tl.arange(0, D_PADDED)
    head = group * HEADS + row
    present = (row < HEADS)[:, None] & (channel < D)[None, :]
    rows = tl.load(query + request * query_stride + head[:, None] * head_stride + channel[None, :], present, other=0.0)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, D_PADDED], tl.float32)
    for start in range(first, stop, TILE):
        position = start + tl.arange(0, TILE)
        seen = position < stop
        block = tl.load(tables + request * table_stride + position // BLOCK_SIZE, mask=seen, other=0)
        slot = (block.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE) * groups + group
        place = slot[:, None] * D + channel[None, :]
        inside = seen[:, None] & (channel < D)[None, :]
        key = tl.load(keys + place, mask=inside, other=0).to(rows.dtype)
        scores = tl.dot(rows, tl.trans(key), input_precision="ieee") * scaling
        value = tl.load(values + place, mask=inside, other=0)
        if QUANTIZED:
            scores *= tl.load(key_scales + slot, mask=seen, other=0.0)[None, :]
            value = value.to(tl.float32) * tl.load(value_scales + slot, mask=seen, other=0.0)[:, None]
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_best[:, None])
        shrunk = tl.exp(best - new_best)
        total = total * shrunk + tl.sum(weights, axis=1)
        out = out * shrunk[:, None] + tl.dot(weights.to(rows.dtype), value.to(rows.dtype), input_precision="ieee")
        best = new_best
    # An empty share weighs nothing.
    safe = tl.where(total > 0, total, 1.0)
    where = (request * groups * HEADS + head) * num_shares + share
    tl.store(log_sums + where, tl.where(total > 0, best + tl.log(safe), float("-inf")), mask=row < HEADS)
    tl.store(shares + where[:, None] * D + channel[None, :], out / safe[:, None], mask=present)


@triton.jit
def _merge_kernel(
    shares, log_sums, out, num_shares,
    S_PADDED: tl.constexpr, D: tl.constexpr, D_PADDED: tl.constexpr,
):  # fmt: skip
    """One program for each request and query head: the shares, weighed by their softmax denominators."""
    row = tl.program_id(0)
    share, channel = tl.arange(0, S_PADDED), tl.arange(0, D_PADDED)
    log_sum = tl.load(log_sums + row * num_shares + share, mask=share < num_shares, other=float("-inf"))
    best = tl.max(log_sum, axis=0)
    weights = tl.exp(log_sum - tl.where(best == float("-inf"), 0.0, best))
    inside = (share < num_shares)[:, None] & (channel < D)[None, :]
    parts = tl.load(shares + (row * num_shares + share)[:, None] * D + channel[None, :], mask=inside, other=0.0)
    total = tl.sum(weights, axis=0)
    merged = tl.sum(parts * weights[:, None], axis=0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * D + channel, merged.to(out.dtype.element_ty), mask=channel < D)


def write(batch: PagedBatch, layer: int, key: Tensor, value: Tensor) -> None:
    """`KVCache.write` of the step's new keys and values [N, G, D]; their channels lie side by side."""
    num_new, groups, head_dim = key.shape
    keys, values, key_scales, value_scales = _layer_of(batch, layer)
    _write_kernel[(num_new, groups)](
        key, value, batch.slots, keys, values, key_scales, value_scales,
        key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        D=head_dim, D_PADDED=_power_of_two(head_dim), QUANTIZED=batch.cache.quantized,
        enable_fp_fusion=True,  # Triton 3.9 warns where nothing is said
    )  # fmt: skip


def decode(
    query: Tensor, batch: PagedBatch, layer: int, tables: Tensor, lengths: Tensor, scaling: float, num_shares: int
) -> Tensor:
    """Attention of one query [R, H, D] a request over its first `lengths` [R] cached tokens -> [R, H, D].

    A request of length 0 gets zeros.
    """
    num_requests, num_heads, head_dim = query.shape
    keys, values, key_scales, value_scales = _layer_of(batch, layer)
    groups = keys.shape[1]
    padded = max(_LEAST_ROWS, _power_of_two(head_dim))
    shares = query.new_empty(num_requests, num_heads, num_shares, head_dim, dtype=torch.float32)
    log_sums = query.new_empty(num_requests, num_heads, num_shares, dtype=torch.float32)
    _share_kernel[(num_requests, groups, num_shares)](
        query, keys, values, key_scales, value_scales, tables, lengths, shares, log_sums, scaling,
        query.stride(0), query.stride(1), tables.stride(0), num_shares,
        BLOCK_SIZE=batch.block_size, HEADS=num_heads // groups,
        ROWS=max(_LEAST_ROWS, _power_of_two(num_heads // groups)),
        D=head_dim, D_PADDED=padded, TILE=_TILE, QUANTIZED=batch.cache.quantized,
        enable_fp_fusion=True,  # Triton 3.9 warns where nothing is said
    )  # fmt: skip
    out = query.new_empty(num_requests, num_heads, head_dim)
    _merge_kernel[(num_requests * num_heads,)](
        shares, log_sums, out, num_shares, S_PADDED=_power_of_two(num_shares), D=head_dim, D_PADDED=padded,
        enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _layer_of(batch: PagedBatch, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys, values and their scales; the keys stand in for scales that are not there and are not read."""
    states, scales = batch.cache.states[:, layer], batch.cache.scales
    if scales is None:
        return states[0], states[1], states[0], states[0]
    return states[0], states[1], scales[0, layer], scales[1, layer]


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
