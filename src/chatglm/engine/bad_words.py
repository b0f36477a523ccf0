"""Words that must not be written, in whatever tokens they come.

A word has many segmentations: a piece of its own, several pieces, single bytes, or the end of one piece and the start
of the next. Instead of listing them, every step bans exactly the tokens after which the text would contain the word:
those that hold it, and those that complete what the text ends with.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache


class TokenTexts:
    """The bytes each token adds to a text, searchable.

    Args:
        texts: for every token id its bytes; empty for special tokens.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.texts = tuple(texts)
        self._ordered = sorted((text, token_id) for token_id, text in enumerate(self.texts) if text)
        self._keys = [text for text, _ in self._ordered]
        self.beginning_with = lru_cache(maxsize=4096)(self._beginning_with)
        self.containing = lru_cache(maxsize=256)(self._containing)

    def _beginning_with(self, start: bytes) -> frozenset[int]:
        first = bisect_left(self._keys, start)
        last = first
        while last < len(self._keys) and self._keys[last].startswith(start):
            last += 1
        return frozenset(token_id for _, token_id in self._ordered[first:last])

    def _containing(self, part: bytes) -> frozenset[int]:
        return frozenset(token_id for text, token_id in self._ordered if part in text)

    def tail(self, token_ids: Sequence[int], size: int) -> bytes:
        """The last `size` bytes of the text of some tokens, or all of it where it is shorter."""
        parts: list[bytes] = []
        missing = size
        for token_id in reversed(token_ids):
            if missing <= 0:
                break
            text = self.texts[token_id] if token_id < len(self.texts) else b""
            parts.append(text)
            missing -= len(text)
        return b"".join(reversed(parts))[-size:] if size > 0 else b""


class BadWords:
    """The words one request must not write.

    Args:
        texts: what tokens mean.
        words: the words; matched as they are, upper and lower case being different.
    """

    def __init__(self, texts: TokenTexts, words: Sequence[str]) -> None:
        self.texts = texts
        self.words = tuple(word.encode() for word in words)
        self.always = frozenset[int]().union(*map(texts.containing, self.words))  # tokens that hold a whole word

    def begun(self, output_ids: Sequence[int]) -> set[int]:
        """Tokens that would complete a word whose beginning is the end of the answer; besides those of `always`."""
        banned: set[int] = set()
        for word in self.words:
            tail = self.texts.tail(output_ids, len(word) - 1)
            for size in range(1, len(tail) + 1):
                if tail.endswith(word[:size]):
                    banned |= self.texts.beginning_with(word[size:])
        return banned
