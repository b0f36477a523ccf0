"""Temperature, top-k, top-p, min-p, and the walk: what they do to the scores of a position, on any device.

On a processor `drawing.py` comes to the same tokens with less work.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chatglm.engine.request import SamplingParams


def on_device(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of some numbers; on a GPU without waiting for the work it has."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return moved(torch.tensor(values, dtype=dtype), device)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; a GPU need not be done with the work it has."""
    return tensor if device.type != "cuda" else tensor.pin_memory().to(device, non_blocking=True)


def stretch(vocabulary: int) -> int:
    """The length of equal stretches that a vocabulary can be cut into."""
    return math.gcd(vocabulary, 256)


def walk(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """Inverse transform sampling in the order of the ids: [N, vocab], which need not add up to 1, and [N] -> [N].

    First to a stretch, then within it: that is less to add up in order. Where there is one token, it is that one.
    """
    stretches = probabilities.unflatten(1, (-1, stretch(probabilities.shape[1])))
    sums = stretches.sum(dim=2, dtype=torch.float64).cumsum(dim=1)
    target = numbers[:, None] * sums[:, -1:]
    which = _first_above(sums, target)
    before = torch.where(which > 0, sums.gather(1, (which - 1).clamp_(min=0)), 0)
    inside = stretches.gather(1, which[..., None].expand(-1, -1, stretches.shape[2]))[:, 0]
    place = _first_above(inside.cumsum(dim=1, dtype=torch.float64), target - before)
    tokens: Tensor = (which * stretches.shape[2] + place)[:, 0]
    return tokens


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """The first of some growing sums [N, n] above each target [N, 1]; rounding must not lead beyond the last growth."""
    target = torch.minimum(target, torch.nextafter(sums[:, -1:], torch.zeros_like(target)))
    return torch.searchsorted(sums, target, right=True).clamp_(max=sums.shape[1] - 1)


def warp(scores: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Temperature, top-k, top-p and min-p, each row by its own; what is cut becomes -inf. [N, vocab] -> [N, vocab]"""
    top_k = [1 if one.greedy else one.top_k for one in params]  # greedy: the best one is all that is left
    columns = [[min(keep, 2**24), one.top_p, one.min_p] for one, keep in zip(params, top_k, strict=True)]
    keep, top_p, min_p = on_device(columns, torch.float64, scores.device).t()[..., None]
    scores = tempered(scores, scores.amax(dim=1), params)
    if any(top_k):
        scores = _cut_top_k(scores, keep.long(), max(top_k))
    if any(one.top_p < 1 for one in params):
        scores = _cut_top_p(scores, top_p)
    if any(one.min_p > 0 for one in params):
        probabilities = torch.softmax(scores, dim=1)
        floor = min_p * probabilities.amax(dim=1, keepdim=True)
        scores = scores.masked_fill(probabilities < floor, -torch.inf)
    return scores


_LEAST_TEMPERATURE = 1e-30  # float32 keeps it apart from 0


def tempered(scores: Tensor, best: Tensor, params: Sequence[SamplingParams], out: Tensor | None = None) -> Tensor:
    """Scores divided by the temperatures; the best of each row is taken off first, so that none is too small."""
    temperatures = [max(one.temperature, _LEAST_TEMPERATURE) if one.temperature else 1.0 for one in params]
    column = on_device(temperatures, torch.float32, scores.device)[:, None]
    return torch.sub(scores, best[:, None], out=out).div_(column)


def _cut_top_k(scores: Tensor, top_k: Tensor, most: int) -> Tensor:
    """`top_k` [N, 1] up to `most`, 0: keep all. A row that keeps one keeps the first of equals, as argmax does."""
    best = scores.topk(min(most, scores.shape[1]), dim=1).values
    least = best.gather(1, (top_k - 1).clamp(0, best.shape[1] - 1))
    cut = scores.masked_fill((scores < least) & (top_k > 0), -torch.inf)
    first = torch.full_like(scores, -torch.inf).scatter_(1, scores.argmax(dim=1, keepdim=True), 0.0)
    return torch.where(top_k == 1, first, cut)


def _cut_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Keep the fewest tokens whose probabilities together reach `top_p` [N, 1]; of equals the last ones."""
    ordered = scores.sort(dim=1, stable=True)
    sums = ordered.values.softmax(dim=1).flip(1).cumsum(dim=1, dtype=torch.float64)
    before = torch.cat((torch.zeros_like(sums[:, :1]), sums[:, :-1]), dim=1).flip(1)  # of those more likely
    drop = (before >= top_p) & (top_p < 1)
    return scores.masked_fill(torch.zeros_like(drop).scatter(1, ordered.indices, drop), -torch.inf)
