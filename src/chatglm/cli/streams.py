"""Standard output and standard error as every command may rely on them, whatever they lead to."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell reports it


class _Output(io.FileIO):
    """Standard output that remembers why it could not be written."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            self.failure = error
            raise


class _Aside(io.FileIO):
    """Standard error where nobody may be listening: what cannot be written is no reason to break off the work."""

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[super().write(rest) or 0 :]
        except OSError:
            pass
        return len(data)


class Streams:
    """The standard streams of one command, safe to write to. What somebody has put in their place stays there.

    `closed`: there is no standard output.
    """

    def __init__(self) -> None:
        # A closed descriptor is filled, or the next file that is opened gets the number and what is said to it.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
        self._output: _Output | None = None
        self.closed = sys.stdout is None
        if sys.stderr is sys.__stderr__:
            encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
            aside = _Aside(2, "w", closefd=False)
            sys.stderr = io.TextIOWrapper(aside, encoding, "backslashreplace", line_buffering=True, write_through=True)
        if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
            self._output, at_once = _Output(1, "w", closefd=False), sys.stdout.write_through
            sys.stdout = io.TextIOWrapper(
                io.BufferedWriter(self._output), sys.stdout.encoding, "replace",  # a file name may hold anything
                line_buffering=sys.stdout.line_buffering, write_through=at_once,
            )  # fmt: skip

    @property
    def failed(self) -> bool:
        """Whether something that was said could not be written."""
        return self._output is not None and self._output.failure is not None

    def finish(self, status: int) -> int:
        """Writes what is left and returns the exit status: `status`, or that of a standard output that failed."""
        try:
            sys.stdout.flush()
        except OSError:
            if not self.failed:
                raise
        if self._output is None or self._output.failure is None:
            return status
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more when it ends
        if isinstance(self._output.failure, BrokenPipeError):  # the reader has left, and needs no word
            return PIPE_CLOSED
        sys.stderr.write(f"chatglm: error: standard output cannot be written: {self._output.failure.strerror}\n")
        return status or 1
