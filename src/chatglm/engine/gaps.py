"""Stretches of neighbouring empty blocks, kept in order as blocks come and go. No tensors."""

from bisect import bisect_right, insort
from collections.abc import Iterator


class Gaps:
    """A set of whole numbers, kept as ranges of neighbours.

    Args:
        stop: at first it holds 0 .. stop.
    """

    def __init__(self, stop: int) -> None:
        self._starts = [0] if stop else []
        self._stop_of: dict[int, int] = {0: stop} if stop else {}
        self._start_of: dict[int, int] = {stop: 0} if stop else {}

    def __iter__(self) -> Iterator[range]:
        return (range(start, self._stop_of[start]) for start in self._starts)

    def add(self, number: int) -> None:
        """Add a number that is not in it."""
        start, stop = number, number + 1
        if number in self._start_of:  # a range ends here
            start = self._start_of.pop(number)
        else:
            insort(self._starts, number)
        if stop in self._stop_of:  # one begins after it
            self._remove_start(stop)
            stop = self._stop_of.pop(stop)
        self._stop_of[start], self._start_of[stop] = stop, start

    def remove(self, number: int) -> None:
        """Take out a number that is in it."""
        start = number if number in self._stop_of else self._starts[bisect_right(self._starts, number) - 1]
        stop = self._stop_of.pop(start)
        if start < number:
            self._stop_of[start], self._start_of[number] = number, start
        else:
            self._remove_start(start)
        if number + 1 < stop:
            insort(self._starts, number + 1)
            self._stop_of[number + 1], self._start_of[stop] = stop, number + 1
        else:
            del self._start_of[stop]

    def _remove_start(self, start: int) -> None:
        del self._starts[bisect_right(self._starts, start) - 1]
