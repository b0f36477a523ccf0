"""Frames between host and guest, as the host sees them: four bytes of length, then JSON, and nothing trusted."""

import json
import struct
from typing import Any

MAX_FRAME = 12 << 20  # bytes


class GuestLost(Exception):
    """The guest is dead or must die. `key` is one word; the message says more."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def encode(frame: dict[str, Any]) -> bytes:
    """One frame for the guest."""
    data = json.dumps(frame).encode()
    return struct.pack(">I", len(data)) + data


class FrameReader:
    """Collects bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The frames that are complete now.

        Raises:
            GuestLost: a frame is too long, not JSON, or not an object.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= 4:
            (length,) = struct.unpack_from(">I", self._buffer)
            if length > MAX_FRAME:
                raise GuestLost("protocol", f"a message of {length} bytes; at most {MAX_FRAME} are allowed")
            if len(self._buffer) < 4 + length:
                break
            frames.append(_decode(bytes(self._buffer[4 : 4 + length])))
            del self._buffer[: 4 + length]
        return frames


def _small(digits: str) -> int:
    if len(digits) > 1000:  # millions of them would take minutes (where Python does not refuse by itself)
        raise ValueError("a number of too many digits")
    return int(digits)


def _decode(data: bytes) -> dict[str, Any]:
    try:
        frame = json.loads(data, parse_int=_small)
    except (ValueError, RecursionError) as error:  # also nesting without end
        raise GuestLost("protocol", f"a message that is not JSON: {type(error).__name__}") from None
    if not isinstance(frame, dict):
        raise GuestLost("protocol", f"a message that is a {type(frame).__name__}, not an object")
    return frame
