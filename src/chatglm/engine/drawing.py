"""From scores to tokens on a processor: what `warp` and `walk` of `warping.py` give, with less work.

Sorting a vocabulary, or adding it up in order, takes milliseconds a row. Nearly always the most likely few tell which
token it is; where they do not, the row is cut by a histogram.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from chatglm.engine.request import SamplingParams
from chatglm.engine.warping import stretch, tempered, walk

_LEAST_STRETCH = 32
_MOST_LIKELY = 64  # a text of a trained model seldom leaves more to choose from
ROWS = 8  # to work on at once: they stay in the caches, and memory taken anew for more costs more than the work


class Room:
    """Memory for some rows, kept from step to step on a processor: taken anew it costs more than the work in it."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def __call__(self, device: torch.device, *shape: int) -> Tensor:
        """Room for float32 numbers of a shape; who asks again gets the same."""
        if device.type != "cpu":
            return torch.empty(shape, device=device)
        size = math.prod(shape)
        if self._memory.numel() < size:
            with torch.inference_mode(False):  # a tensor made in that mode could not be written outside of it
                self._memory = torch.empty(size)
        return self._memory[:size].view(shape)


class Drawer:
    """Draws tokens.

    Args:
        room: memory to work in.
    """

    def __init__(self, room: Room) -> None:
        self.room = room

    def __call__(self, scores: Tensor, params: Sequence[SamplingParams], numbers: Sequence[float]) -> list[int | None]:
        """A token for each row of `scores` [N, vocab], by its number in [0, 1); None where the best one is not finite:
        a NaN, an overflow, or no token left."""
        tokens: list[int | None] = [None] * len(params)
        if any(one.greedy for one in params):
            best, first = first_best(scores)
            tokens[:] = first.tolist()
        else:
            best = scores.amax(dim=1)
        finite = [math.isfinite(most) for most in best.tolist()]
        tokens = [token if can else None for token, can in zip(tokens, finite, strict=True)]
        sampled = [index for index, can in enumerate(finite) if can and not params[index].greedy]
        if sampled:
            chosen = (scores, best) if len(sampled) == len(tokens) else (scores[sampled], best[sampled])
            drawn = self._draw(*chosen, [params[index] for index in sampled], [numbers[index] for index in sampled])
            for index, token in zip(sampled, drawn, strict=True):
                tokens[index] = token
        return tokens

    def _draw(
        self, scores: Tensor, best: Tensor, params: Sequence[SamplingParams], numbers: Sequence[float]
    ) -> list[int | None]:
        """Rows that are sampled, each with its best score, a finite one."""
        scaled, probabilities = self.room(scores.device, 2, *scores.shape)
        tempered(scores, best, params, out=scaled)
        torch.softmax(scaled, dim=1, out=probabilities)
        tokens: list[int | None] = [None] * len(params)
        if any(map(_cuts, params)):
            values, ids = most_likely(probabilities, _MOST_LIKELY)
            whole = values.shape[1] == scores.shape[1]
            rows = zip(values.tolist(), ids.tolist(), params, numbers, strict=True)
            tokens = [_among(*row, whole) if _cuts(row[2]) else None for row in rows]
        untold = [index for index, token in enumerate(tokens) if token is None]
        for index in untold:
            _cut_row(probabilities[index], scaled[index], params[index])
        if untold:
            left = probabilities if len(untold) == len(tokens) else probabilities[untold]
            walked = walk(left, torch.tensor([numbers[index] for index in untold], dtype=torch.float64))
            for index, token in zip(untold, walked.tolist(), strict=True):
                tokens[index] = token
        return tokens


def first_best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The best score of each row [N, vocab], and the first token that has it: [N] each.

    Torch looks for an index one number at a time, for a value many at a time: so first the stretch, then the token.
    """
    width = stretch(scores.shape[1])
    if len(scores) == 1 or width < _LEAST_STRETCH:
        return tuple(scores.max(dim=1))  # type: ignore[return-value]
    stretches = scores.unflatten(1, (-1, width))
    best, which = stretches.amax(dim=2).max(dim=1)
    inside = stretches[torch.arange(len(scores)), which].argmax(dim=1)
    return best, which * width + inside


def _cuts(one: SamplingParams) -> bool:
    return one.top_k > 0 or one.top_p < 1 or one.min_p > 0


def most_likely(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of each row, in descending order, and their ids; all of them where there are fewer.

    They lie in as many stretches at most, those with the highest maxima.
    """
    vocabulary = probabilities.shape[1]
    width = stretch(vocabulary) // 4
    if width < _LEAST_STRETCH or vocabulary // width <= count or probabilities.is_cuda:
        return tuple(probabilities.topk(min(count, vocabulary), dim=1))  # type: ignore[return-value]
    stretches = probabilities.unflatten(1, (-1, width))
    which = stretches.amax(dim=2).topk(count, dim=1, sorted=False).indices  # [N, count]
    first = torch.arange(len(which))[:, None] * stretches.shape[1]
    near = stretches.flatten(0, 1).index_select(0, (which + first).view(-1)).view(len(which), -1)
    values, places = near.topk(count, dim=1)
    return values, which.gather(1, places // width) * width + places % width


def _among(values: list[float], ids: list[int], one: SamplingParams, number: float, whole: bool) -> int | None:
    """The token of a row by its most likely ones, or its `whole` vocabulary; None where they do not tell: more can be
    chosen, or the last one kept has an equal that is not."""
    kept, total = len(values), 1.0
    if one.top_k and (one.top_k < kept or not whole):
        if one.top_k >= kept or values[one.top_k - 1] == values[one.top_k]:
            return None
        kept, whole = one.top_k, True
        total = math.fsum(values[:kept])
    mass, floor, wanted = 0.0, one.min_p * values[0], one.top_p * total if one.top_p < 1 else math.inf
    for index, value in enumerate(values[:kept]):
        if mass >= wanted or value < floor:
            if value == values[index - 1]:
                return None
            kept, whole = index, True
            break
        mass += value
    return _walked(sorted(zip(ids[:kept], values[:kept], strict=True)), number) if whole else None


def _walked(weights: list[tuple[int, float]], number: float) -> int:
    """`walk` over some tokens in the order of their ids."""
    sums = list(accumulate(weight for _, weight in weights))
    # Rounding must not lead beyond the last one that adds something.
    place = min(bisect_right(sums, number * sums[-1]), bisect_left(sums, sums[-1]))
    return weights[place][0]


def _cut_row(probabilities: Tensor, scores: Tensor, one: SamplingParams) -> None:
    """What `warp` cuts of a row [vocab] on a processor becomes 0, in place."""
    total = 1.0
    if 0 < one.top_k < len(scores):
        least = scores.topk(one.top_k).values[-1]
        probabilities[scores < least] = 0
        if one.top_k == 1:
            first = int(scores.argmax())
            probabilities[:first] = probabilities[first + 1 :] = 0
        total = float(probabilities.sum(dtype=torch.float64))
    if one.top_p < 1:
        _cut_row_top_p(probabilities, one.top_p * total)
    if one.min_p > 0:
        probabilities[probabilities < one.min_p * float(probabilities.max())] = 0


_SHIFT = 18  # of the bits of a float32, leaves the exponent and 5 bits of the fraction


def _cut_row_top_p(probabilities: Tensor, wanted: float) -> None:
    """Keep the fewest of a row that reach a sum, in place. They are put into bins by size, and only the bin in which it
    is reached is sorted: sorting a vocabulary takes milliseconds."""
    bins = probabilities.view(torch.int32) >> _SHIFT  # the bits of positive numbers are in the order of the numbers
    mass = torch.bincount(bins, weights=probabilities.double()).flip(0).cumsum(dim=0)
    reached = int(torch.searchsorted(mass, wanted))
    edge = len(mass) - 1 - reached
    if edge <= 0:  # also where rounding leaves all of them below the sum
        return
    (at_edge,) = (bins == edge).nonzero(as_tuple=True)
    order = at_edge[probabilities[at_edge].argsort(stable=True)].flip(0)  # of equals the last ones stay, as in `warp`
    before = probabilities[order].double().cumsum(dim=0).roll(1)
    before[0] = 0.0
    if reached:
        before += mass[reached - 1]
    dropped = order[before >= wanted]
    below = torch.tensor([(edge << _SHIFT) - 1], dtype=torch.int32).view(torch.float32)
    torch.nn.functional.threshold(probabilities, float(below), 0.0, inplace=True)
    probabilities[dropped] = 0
