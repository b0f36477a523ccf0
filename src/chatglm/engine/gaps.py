"""Stretches of neighbouring empty blocks, found by their size, however many there are. No tensors."""

from collections import OrderedDict
from collections.abc import Iterator


class Gaps:
    """A set of whole numbers, kept as ranges of neighbours.

    Args:
        stop: at first it holds 0 .. stop.
    """

    def __init__(self, stop: int) -> None:
        self._stop_of: dict[int, int] = {}
        self._start_of: dict[int, int] = {}
        self._is_start = bytearray(stop)  # to find the range a number lies in, without keeping them in order
        # Starts by the number of bits of the range's length. Ordered: what was taken out leaves nothing to skip.
        self._by_bits: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(stop.bit_length() + 1)]
        if stop:
            self._put(0, stop)

    def __iter__(self) -> Iterator[range]:
        return (range(start, self._stop_of[start]) for start in sorted(self._stop_of))

    def by_fit(self, wanted: int) -> Iterator[range]:
        """All ranges: those that hold `wanted` numbers first, small ones before large ones, then the largest others."""
        bits, most = wanted.bit_length(), len(self._by_bits)
        near = self._by_bits[bits] if bits < most else OrderedDict()
        yield from (range(start, self._stop_of[start]) for start in near if self._stop_of[start] - start >= wanted)
        for index in range(bits + 1, most):
            yield from (range(start, self._stop_of[start]) for start in self._by_bits[index])
        yield from (range(start, self._stop_of[start]) for start in near if self._stop_of[start] - start < wanted)
        for index in range(min(bits, most) - 1, 0, -1):
            yield from (range(start, self._stop_of[start]) for start in self._by_bits[index])

    def add(self, number: int) -> None:
        """Add a number that is not in it."""
        start, stop = self._start_of.get(number, number), self._stop_of.get(number + 1, number + 1)
        if start < number:
            self._drop(start, number)
        if number + 1 < stop:
            self._drop(number + 1, stop)
        self._put(start, stop)

    def remove(self, number: int) -> None:
        """Take out a number that is in it."""
        start = number if number in self._stop_of else self._is_start.rfind(1, 0, number)
        stop = self._stop_of[start]
        self._drop(start, stop)
        if start < number:
            self._put(start, number)
        if number + 1 < stop:
            self._put(number + 1, stop)

    def _put(self, start: int, stop: int) -> None:
        self._stop_of[start], self._start_of[stop], self._is_start[start] = stop, start, 1
        self._by_bits[(stop - start).bit_length()][start] = None

    def _drop(self, start: int, stop: int) -> None:
        del self._stop_of[start], self._start_of[stop]
        self._is_start[start] = 0
        del self._by_bits[(stop - start).bit_length()][start]
