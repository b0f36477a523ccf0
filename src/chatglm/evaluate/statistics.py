"""Confidence intervals, and the test whether two runs differ."""

import math
import random
from collections.abc import Sequence

Z = 1.959963984540054  # 95 %
ROUNDS = 10_000  # of the permutation test


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean: Wilson's where every score is 0 or 1, else the normal one, within 0 and 1."""
    count = len(scores)
    if not count:
        return 0.0, 1.0
    mean = math.fsum(scores) / count
    if all(score in (0.0, 1.0) for score in scores):
        middle = (mean + Z * Z / (2 * count)) / (1 + Z * Z / count)
        half = Z / (1 + Z * Z / count) * math.sqrt(mean * (1 - mean) / count + Z * Z / (4 * count * count))
    else:
        middle, half = mean, Z * standard_error(scores)
    return max(0.0, middle - half), min(1.0, middle + half)


def standard_error(scores: Sequence[float]) -> float:
    """Of the mean; 0.5 where one score alone says nothing."""
    count = len(scores)
    if count < 2:
        return 0.5
    mean = math.fsum(scores) / count
    return math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (count - 1) / count)


def interval_of_means(groups: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a weighted mean of the groups' means, within 0 and 1."""
    middle = math.fsum(w * math.fsum(group) / len(group) for w, group in zip(weights, groups, strict=True))
    half = Z * math.sqrt(math.fsum((w * standard_error(group)) ** 2 for w, group in zip(weights, groups, strict=True)))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(before: Sequence[float], after: Sequence[float]) -> float:
    """p of "nothing has changed": McNemar's exact test where every score is 0 or 1, else a permutation of signs."""
    changes = [new - old for old, new in zip(before, after, strict=True) if new != old]
    if not changes:
        return 1.0
    if all(abs(change) == 1 for change in changes):
        fewer = min(sum(change > 0 for change in changes), sum(change < 0 for change in changes))
        ways: int = 2 ** len(changes)  # whole numbers, for with many changes neither is a float any more
        return min(1.0, 2 * sum(math.comb(len(changes), k) for k in range(fewer + 1)) / ways)
    draw, seen = random.Random(0), abs(math.fsum(changes))
    rounds = (abs(math.fsum(change if draw.random() < 0.5 else -change for change in changes)) for _ in range(ROUNDS))
    return (sum(value >= seen - 1e-12 for value in rounds) + 1) / (ROUNDS + 1)
