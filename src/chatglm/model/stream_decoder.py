"""Ids to text one at a time: whole characters only, every id looked at once."""

from typing import Protocol

from chatglm.model.vocabulary import BLANK


class Surfaces(Protocol):
    """Where the decoder looks up what an id adds to the text."""

    def surface(self, token_id: int, /) -> str | int:
        """Characters with `BLANK` for blanks, or one byte of a character spelled in bytes."""


class StreamDecoder:
    """Push ids, get text; the texts join to `tokenizer.decode` of all ids.

    A character spelled in bytes is held back until it is complete, and nothing else is; bytes that turn out to belong
    to no character become U+FFFD, one each. A U+FFFD the model means is text like any other.

    Args:
        tokenizer: a `ChatGLMTokenizer`, or anything with its `surface`.
    """

    def __init__(self, tokenizer: Surfaces) -> None:
        self._surface = tokenizer.surface
        self._bytes = bytearray()
        self._at_start = True  # the first piece of a text loses one blank, the dummy prefix
        self._prefix_gone = False

    def push(self, token_id: int) -> str:
        """The text that became certain with this id."""
        surface = self._surface(token_id)
        if isinstance(surface, int):
            self._bytes.append(surface)
            return self._after(self._take_characters())
        text = self._after("\ufffd" * len(self._bytes))
        self._bytes.clear()
        # Where the prefix was, or any text, the text has begun; an id without text changes nothing.
        self._at_start = self._at_start and not self._prefix_gone
        if self._at_start and surface.startswith(BLANK):
            self._prefix_gone = True
            surface = surface[1:]
        return text + self._after(surface.replace(BLANK, " "))

    def flush(self) -> str:
        """What is left: U+FFFD for each byte of an unfinished character. Ready for a new text after it."""
        text = "\ufffd" * len(self._bytes)
        self._bytes.clear()
        self._at_start, self._prefix_gone = True, False
        return text

    def _after(self, text: str) -> str:
        if text:
            self._at_start = False
        return text

    def _take_characters(self) -> str:
        text = ""
        while self._bytes:
            length = _sequence_length(self._bytes)
            if length > len(self._bytes):
                break
            text += _character(bytes(self._bytes[:length]))
            del self._bytes[:length]
        return text


def _sequence_length(data: bytearray) -> int:
    """Bytes of the first character, or 1 where it is certain that there is none."""
    first = data[0]
    length = 2 if 0xC0 <= first < 0xE0 else 3 if 0xE0 <= first < 0xF0 else 4 if 0xF0 <= first < 0xF8 else 1
    if any(not 0x80 <= byte < 0xC0 for byte in data[1:length]):
        return 1
    try:
        if length <= len(data):
            data[:length].decode("utf-8")
    except UnicodeDecodeError:  # an overlong form, a surrogate, or beyond the last character
        return 1
    return length


def _character(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
