"""Constraints for tests: small ones of our own."""

from collections.abc import Sequence
from typing import Any

import torch


class Counting:
    """Tokens count up by one or two from the last one, round and round. Remembers what it was told."""

    def __init__(self, size: int, start: int = 0) -> None:
        self.size, self.told = size, [start]
        self.most_told = 1

    def accept(self, ids: Sequence[int]) -> None:
        for token in ids:
            assert token in self.next(), "was told what it does not allow"
            self.told.append(token)
        self.most_told = max(self.most_told, len(self.told))

    def next(self) -> list[int]:
        return [(self.told[-1] + step) % self.size for step in (1, 2)]

    def fill(self, row: Any) -> None:
        assert not row.any()
        for token in self.next():
            row[token // 32] |= torch.tensor(1 << token % 32).int()

    def rollback(self, n: int) -> None:
        assert 0 < n < len(self.told)
        del self.told[-n:]


class CountingTogether(Counting):
    """The same, asked for many rows in one call."""

    calls: list[int] = []

    @staticmethod
    def fill_many(asked: Sequence[tuple[Any, int]], rows: torch.Tensor) -> None:
        CountingTogether.calls.append(len(asked))
        for constraint, place in asked:
            constraint.fill(rows[place])
