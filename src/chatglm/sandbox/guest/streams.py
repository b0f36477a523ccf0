"""What `sys.stdout` and `sys.stderr` are in a cell."""

import io
import os
from typing import BinaryIO

from .channel import Channel

_PIECE = 1 << 15  # characters of one frame
_EAGER_LINES = 200  # lines sent one by one, so that a crash loses nothing; after that they are gathered


class Stream(io.TextIOBase):
    """A text stream whose writes become frames."""

    encoding, errors = "utf-8", "replace"  # plain attributes, as TextIOWrapper has them

    def __init__(self, name: str, descriptor: int, channel: Channel) -> None:
        super().__init__()
        self.name, self._descriptor, self._channel = name, descriptor, channel
        self._parts: list[str] = []
        self._chars = self._lines = 0

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._channel.forked:
            os.write(self._descriptor, text.encode("utf-8", "replace"))
            return len(text)
        if self._channel.writer is not self:  # what is said on both arrives in the order of the code
            if self._channel.writer is not None:
                self._channel.writer.flush()
            self._channel.writer = self
        self._parts.append(text)
        self._chars += len(text)
        if self._chars > 8192 or ("\n" in text and self._lines < _EAGER_LINES):
            self._lines += 1
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._parts, self._chars = "".join(self._parts), [], 0
        for start in range(0, len(text), _PIECE):
            self._channel.send({"t": "stream", "name": self.name, "text": text[start : start + _PIECE]})

    def begin_cell(self) -> None:
        """Lines are sent one by one again."""
        self._lines = 0

    def close(self) -> None:
        """Stays open: the next cell prints too."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    @property
    def buffer(self) -> BinaryIO:
        self.flush()
        return open(self._descriptor, "wb", closefd=False, buffering=0)
