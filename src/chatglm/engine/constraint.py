"""Constraint: which tokens may come next, as a grammar or a schema says."""

from collections.abc import Sequence
from typing import Any, Protocol


class Constraint(Protocol):
    """Follows the answer of one request and says before each token which ones may be next.

    A type of constraints that can be asked together has a static method `fill_many(asked, rows)` besides: `asked` are
    pairs of a constraint and the index of its row in `rows`, an int32 tensor [n, ceil(vocab / 32)] of zeros, in one
    piece on the CPU. It may use threads, and should release the GIL. Where it fails each one is asked by itself.
    """

    def accept(self, ids: Sequence[int]) -> None:
        """The answer goes on with these tokens."""

    def fill(self, row: Any) -> None:
        """Set the bits of the tokens that may be next in `row`, an int32 tensor [ceil(vocab / 32)] of zeros on the CPU:
        token t is bit t % 32 of number t // 32. Asked twice at one place, it says the same."""

    def rollback(self, n: int) -> None:
        """Forget the last `n` tokens; they were guesses."""


class Told:
    """A constraint, and how much of its request's text it has been told.

    Args:
        constraint: is told nothing of the prompt.
        length: tokens of the prompt.
    """

    def __init__(self, constraint: Constraint, length: int) -> None:
        self.constraint, self.length = constraint, length

    def follow(self, context: Sequence[int]) -> None:
        """Tell what has come since the last time; `context` is the whole text."""
        if len(context) > self.length:
            self.constraint.accept(context[self.length :])
            self.length = len(context)

    def rewind(self, length: int) -> None:
        """Take back the tokens from `length` on."""
        if length < self.length:
            self.constraint.rollback(self.length - length)
            self.length = length
