"""Frames between guest and host: four bytes of length, then JSON."""

import fcntl
import json
import os
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from os import read, write
from typing import Any

_DRAIN_SECONDS = 0.2  # how long a frame waits for the host to take what was written past it


class Interrupts:
    """When a KeyboardInterrupt may be raised: inside a cell, and never in the middle of a frame."""

    def __init__(self) -> None:
        self.in_cell = self.pending = False
        self.sending = 0

    def handler(self, _signal: int, _frame: Any) -> None:
        """For SIGINT."""
        self.pending = self.in_cell
        self.raise_if_pending()

    def raise_if_pending(self) -> None:
        """Raises what came while it could not be raised."""
        if self.pending and self.in_cell and not self.sending:
            self.pending = False
            raise KeyboardInterrupt


class Channel:
    """The guest's end. A process forked from the guest loses it: only one process may speak."""

    def __init__(self, read_fd: int, write_fd: int, interrupts: Interrupts) -> None:
        self._read_fd, self._write_fd, self._interrupts = read_fd, write_fd, interrupts
        self._lock = threading.RLock()
        self.forked = False
        self.writer: Any = None  # the stream that was written to last, and may hold text that is not sent yet
        os.set_inheritable(read_fd, False)
        os.set_inheritable(write_fd, False)
        os.register_at_fork(after_in_child=self._lose)

    def _lose(self, close: Callable[[int], None] = os.close) -> None:
        """Trap: a forked child that comes back to the loop would answer in the parent's place."""
        self.forked = True
        self._lock = threading.RLock()  # another thread may have held it at the fork
        for descriptor in {self._read_fd, self._write_fd}:
            try:
                close(descriptor)
            except OSError:
                continue  # the code closed it already

    def send(self, frame: dict[str, Any], dumps: Callable[[Any], str] = json.dumps) -> None:
        """Sends one frame whole, after what was written to descriptors 1 and 2 before it."""
        if self.forked:
            return
        data = dumps(frame).encode()
        message = memoryview(struct.pack(">I", len(data)) + data)
        main = threading.current_thread() is threading.main_thread()
        self._interrupts.sending += main
        try:
            with self._lock:
                self._wait_for_raw_output()
                while message:
                    message = message[write(self._write_fd, message) :]
        finally:
            self._interrupts.sending -= main
        if main:
            self._interrupts.raise_if_pending()

    def _wait_for_raw_output(self) -> None:
        """Child processes write to the pipes behind 1 and 2. Until the host has read those, a frame would overtake."""
        for descriptor in (1, 2):
            end = time.monotonic() + _DRAIN_SECONDS
            while _waiting(descriptor) and time.monotonic() < end:
                time.sleep(0.0005)

    def receive(self) -> dict[str, Any]:
        """The next frame of the host.

        Raises:
            EOFError: the host is gone.
        """
        (length,) = struct.unpack(">I", self._exactly(4))
        frame: dict[str, Any] = json.loads(self._exactly(length))
        return frame

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = read(self._read_fd, length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


def _waiting(descriptor: int) -> bool:
    """Whether a pipe holds bytes nobody has read yet."""
    try:
        answer = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0")
    except OSError:
        return False  # no pipe, or closed by the code: nothing to wait for
    return int.from_bytes(answer, sys.byteorder) > 0
