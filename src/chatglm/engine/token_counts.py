"""TokenCounts: which tokens a text holds and how often, as settings that look at that need it."""

import math
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence


class TokenCounts:
    """What single tokens of one request gain or lose, kept up to date as its text grows, at a cost per new token.

    `ids` and `values` (as long) are what is added to which scores. `seen` has a bit for each token of the text; it is
    empty where nobody asks for it.

    Args:
        prompt_ids: counted as seen, not as used.
        biases: added to the scores of tokens from the start.
        banned: tokens that are never to be chosen.
        penalties: taken off the score of a token of the answer, once and for each use.
        vocabulary: how many tokens have scores; others are passed over.
        seen: whether `seen` is wanted.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        biases: Mapping[int, float],
        banned: Collection[int],
        penalties: tuple[float, float],
        vocabulary: int,
        *,
        seen: bool,
    ) -> None:
        self.ids, self.values = array("q"), array("f")
        self.seen = bytearray(-(-vocabulary // 32) * 4 if seen else 0)
        self._once, self._each = penalties
        self._biases = dict(biases) | dict.fromkeys(banned, -math.inf)
        self._places: dict[int, int] = {}
        for token, bias in self._biases.items():
            if token < vocabulary:
                self._set(token, bias)
        self._num_prompt, self._output = len(prompt_ids), array("q")
        self._uses: Counter[int] = Counter()
        self._in_text = Counter(prompt_ids if seen else ())
        for token in self._in_text:
            if token < vocabulary:
                self._flip(token)

    def follow(self, context: Sequence[int]) -> None:
        """Count what has come since the last time; `context` is the whole text."""
        for token in context[self._num_prompt + len(self._output) :]:
            self._output.append(token)
            self._count(token, 1)

    def rewind(self, length: int) -> None:
        """Take back the tokens from `length` on."""
        while self._num_prompt + len(self._output) > length:
            self._count(self._output.pop(), -1)

    def _count(self, token: int, by: int) -> None:
        if self._once or self._each:
            self._uses[token] += by
            uses = self._uses[token]
            self._set(token, self._biases.get(token, 0.0) - (self._once + self._each * uses if uses else 0.0))
        if self.seen:
            self._in_text[token] += by
            if self._in_text[token] == (1 if by > 0 else 0):  # it has appeared, or disappeared
                self._flip(token)

    def _set(self, token: int, value: float) -> None:
        place = self._places.setdefault(token, len(self.ids))
        if place == len(self.ids):
            self.ids.append(token)
            self.values.append(value)
        else:
            self.values[place] = value

    def _flip(self, token: int) -> None:
        self.seen[token >> 3] ^= 1 << (token & 7)
