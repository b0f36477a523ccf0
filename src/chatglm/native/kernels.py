"""The kernels as functions over tensors. Everything is float32 on the CPU; shapes are asserted, not guessed."""

import time
from collections.abc import Sequence
from ctypes import byref

import torch
from torch import Tensor

from chatglm.native.library import library
from chatglm.native.structures import DTYPES, Batch, Cache, Caches, Edit, Highest, Layers, Weight, address


def _done(status: int) -> None:
    if status != 0:
        raise MemoryError("the native kernels could not allocate their working memory")


def linear(weight: Weight, states: Tensor) -> Tensor:
    """states [N, columns] float32 -> [N, rows]; the activations are rounded to 8 bits in groups of 32 columns."""
    assert (states.dtype, states.shape[1:]) == (torch.float32, (weight.columns,))
    states = states.contiguous()
    out = torch.empty(states.shape[0], weight.rows)
    if states.shape[0]:
        call = library().chatglm_linear
        _done(call(byref(weight.struct), states.data_ptr(), weight.columns, weight.columns, out.data_ptr(), len(out)))
    return out


def dequantize(weight: Weight, first: int = 0, last: int | None = None) -> Tensor:
    """Rows `first` to `last` of the weight as numbers, float32 [last - first, columns]."""
    last = weight.rows if last is None else last
    out = torch.empty(last - first, weight.padded_columns)
    _done(library().chatglm_dequantize(byref(weight.struct), out.data_ptr(), first, last))
    return out[:, : weight.columns]


def quantize(target: Weight, weight: Tensor, official: bool) -> bool:
    """Fill the tensors of `target` with a full weight [rows, columns], float32, float16 or bfloat16, rounded to nearest
    -> whether it could be: not where a number is not finite or a scale too large, and the tensors then hold anything.

    `official`: by the formula of the official releases, one scale a row in the dtype of the weight.
    """
    assert (weight.shape, weight.is_cpu) == ((target.rows, target.columns), True)
    weight = weight.detach().contiguous()
    if weight.data_ptr() % weight.itemsize:  # mapped from a file that begins with an odd header
        weight = weight.clone()
    call = library().chatglm_quantize
    status = call(byref(target.struct), weight.data_ptr(), DTYPES[weight.dtype], target.columns, int(official))
    _done(min(status, 0))
    return bool(status == 0)


def gather(weight: Weight, ids: Tensor) -> Tensor:
    """Rows of an embedding: ids int64 [N], within the rows -> float32 [N, columns]."""
    assert (ids.dtype, ids.dim()) == (torch.int64, 1)
    ids = ids.contiguous()
    out = torch.empty(ids.shape[0], weight.columns)
    _done(library().chatglm_gather(byref(weight.struct), ids.data_ptr(), out.data_ptr(), weight.columns, len(out)))
    return out


def attention(cache: Cache, batch: Batch, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """query [N, H, D], key and value [N, G, D], all float32 -> [N, H, D]; keys and values are written first."""
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    assert query.dtype == key.dtype == value.dtype == torch.float32
    assert query.shape[2] % 16 == 0
    out = torch.empty_like(query)
    pointers = (query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr())
    call = library().chatglm_attention
    _done(call(byref(cache.struct), byref(batch.struct), *pointers, query.shape[1], scaling))
    return out


def layers_forward(
    layers: Layers, caches: Caches, batch: Batch, cosines: Tensor, sines: Tensor, stream: Tensor
) -> None:
    """Decoder layers one after another, in place: stream float32 [N, hidden], cosines and sines [N, rotary_dim / 2]."""
    assert stream.dtype == cosines.dtype == sines.dtype == torch.float32
    assert all(tensor.is_contiguous() for tensor in (stream, cosines, sines))
    assert len(layers.structs) == len(caches.structs)
    pointers = (cosines.data_ptr(), sines.data_ptr(), stream.data_ptr())
    call = library().chatglm_layers_forward
    _done(call(layers.structs, caches.structs, len(layers.structs), byref(batch.struct), *pointers))


def edit_scores(scores: Tensor, edits: Sequence[Edit]) -> None:
    """Change the scores float32 [n, V] in place, each row by its own of n edits: first the penalty, then what is added
    to single ids, which must lie within the row."""
    assert (scores.dtype, len(scores), scores.is_contiguous()) == (torch.float32, len(edits), True)
    structs = (Edit * len(edits))(*edits)
    _done(library().chatglm_edit_scores(scores.data_ptr(), scores.shape[1], structs, len(edits)))


MOST_HIGHEST = 64  # CHATGLM_MOST_HIGHEST


def find_highest(scores: Tensor, count: int, kept: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of scores float32 [n, V] the highest [n], log(sum(exp(score - highest))) [n], and the log-probabilities of the
    `count` most likely [n, count] with their ids, of equals the lower ids. A row that holds NaN, or whose highest is
    not finite, has NaN everywhere and any ids. `kept` [n, V] becomes a copy of the scores.
    """
    assert (scores.dtype, scores.is_contiguous()) == (torch.float32, True)
    assert kept is None or (kept.dtype, kept.shape, kept.is_contiguous()) == (torch.float32, scores.shape, True)
    assert 1 <= count <= min(MOST_HIGHEST, scores.shape[1])
    most, log_sums = torch.empty(2, len(scores))
    logprobs = torch.empty(len(scores), count)
    ids = torch.empty(len(scores), count, dtype=torch.int64)
    out = Highest(most.data_ptr(), log_sums.data_ptr(), logprobs.data_ptr(), ids.data_ptr(), address(kept))
    _done(library().chatglm_find_highest(scores.data_ptr(), scores.shape[1], len(scores), count, byref(out)))
    return most, log_sums, logprobs, ids


def read_rate(num_bytes: int = 2**30, repeats: int = 5) -> float:
    """Bytes a second that all threads together read from memory: the best of `repeats` passes."""
    data = torch.zeros(num_bytes, dtype=torch.uint8)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        library().chatglm_read(data.data_ptr(), num_bytes)
        best = max(best, num_bytes / (time.perf_counter() - start))
    return best


def product_rate(rounds: int = 2_500, repeats: int = 5) -> float:
    """8-bit products a second (a multiplication and an addition each) that all threads together can do with what is in
    registers already: the best of `repeats` passes."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        products: int = library().chatglm_multiply_only(rounds)
        best = max(best, products / (time.perf_counter() - start))
    return best
