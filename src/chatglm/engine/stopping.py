"""Stop strings: find them across token borders, and let nothing out that may yet turn into one."""

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """Ids to text, whole characters only."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


class StopStrings:
    """Turns one answer's ids into text and watches it for stop strings.

    Text is held back while its end could be the beginning of a stop string. The stop string and what follows it are
    never let out.
    """

    def __init__(self, decoder: Decoder, stop: Sequence[str]) -> None:
        self.decoder, self.stop = decoder, tuple(stop)
        self.held = ""
        self.word: str | None = None  # the stop string that has come

    @property
    def found(self) -> bool:
        return self.word is not None

    def push(self, token_id: int) -> str:
        """The text that is now certain; `found` tells whether a stop string has come."""
        return self._let_out(self.decoder.push(token_id))

    def finish(self) -> str:
        """What was held back, at the end of an answer that no stop string ended."""
        text = "" if self.found else self._let_out(self.decoder.flush())
        text, self.held = text + self.held, ""
        return text

    def flush(self) -> str:
        """`finish` under a decoder's name: whatever reads texts from a decoder can be given this one instead, and gets
        them without stop strings."""
        return self.finish()

    def _let_out(self, new: str) -> str:
        text = self.held + new
        # The one that is complete first counts, as if the text had come letter by letter.
        found = [(start + len(word), start, word) for word in self.stop if (start := text.find(word)) >= 0]
        if found:
            _, start, self.word = min(found)
            self.held = ""
            return text[:start]
        keep = max((self._overlap(text, word) for word in self.stop), default=0)
        cut = len(text) - keep
        self.held = text[cut:]
        return text[:cut]

    @staticmethod
    def _overlap(text: str, word: str) -> int:
        """Length of the longest end of `text` that begins `word`."""
        longest = min(len(text), len(word) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(word[:size])), 0)


class AnswerStops(StopStrings):
    """Stop strings in what is written, but not in the blanks a segment begins with: its empty first line is part of
    the format, and a stop string of one line break would else end every answer before it begins."""

    def __init__(self, decoder: Decoder, stop: Sequence[str]) -> None:
        super().__init__(decoder, stop)
        self._begun = False

    def flush(self) -> str:
        text, self._begun = super().flush(), False
        return text

    def _let_out(self, new: str) -> str:
        blanks = "" if self._begun else new[: len(new) - len(new.lstrip())]
        self._begun = self._begun or len(blanks) < len(new)
        return blanks + super()._let_out(new[len(blanks) :])
