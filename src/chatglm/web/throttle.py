"""How often a page is drawn anew: each drawing costs the browser more the longer the answer is."""

from __future__ import annotations

import time
from collections.abc import Callable

SOONEST = 0.1  # seconds between two drawings
PER_VISITOR = 0.02  # more for every answer that is being written: all share one processor
PER_CHARACTER = 0.00004  # more the longer the answer: what a browser does for a drawing grows with it


class Throttle:
    """Says when to draw: at once, and then not too soon again.

    Args:
        active: how many answers are being written at the moment.
        clock: seconds that only grow.
    """

    def __init__(self, active: Callable[[], int] = lambda: 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._active, self._clock = active, clock
        self._next = clock()

    def wait(self, length: int) -> float:
        """Seconds until something may be drawn again; 0: now, and it counts as drawn.

        Args:
            length: characters of the answer so far.
        """
        now = self._clock()
        if now < self._next:
            return self._next - now
        self._next = now + max(SOONEST, PER_VISITOR * self._active()) + PER_CHARACTER * length
        return 0.0
