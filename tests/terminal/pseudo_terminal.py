"""A program in a terminal of its own, as a person would run it: keys in, screen text out."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Sequence

# What makes the terminal the program's own, so that Ctrl-C reaches it as a signal.
ADOPT = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])")


class PseudoTerminal:
    """Runs `command` with standard input, output and error on a terminal that the test holds the other end of."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.end, other = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", ADOPT, *command],
            stdin=other,
            stdout=other,
            stderr=other,
            # No cursor position requests: nobody here would answer them.
            env={**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
            start_new_session=True,
        )
        os.close(other)
        self.output = b""
        self.screen = ""  # the output without what steers the terminal
        self.seen = 0  # how much of the screen was waited for

    def type(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def wait_for_keys(self, seconds: float = 60) -> None:
        """Until the program reads every key by itself, Ctrl-C too: a moment before that it would be a signal."""
        deadline = time.monotonic() + seconds
        while termios.tcgetattr(self.end)[3] & termios.ICANON:
            assert time.monotonic() < deadline, self.screen
            time.sleep(0.01)

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """What appeared since the last call, up to and with `text`."""
        deadline = time.monotonic() + seconds
        while text not in self.screen[self.seen :]:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} did not appear; the screen shows:\n{self.screen}")
        begin, self.seen = self.seen, self.screen.index(text, self.seen) + len(text)
        return self.screen[begin : self.seen]

    def wait_for_more(self, length: int, seconds: float = 60) -> None:
        """Until that many characters have appeared that were not waited for."""
        deadline = time.monotonic() + seconds
        while len(self.screen) - self.seen < length:
            assert self._read(deadline), self.screen

    def wait_for_end(self, seconds: float = 60) -> int:
        """The exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.end)

    def _read(self, deadline: float) -> bool:
        """One more piece of output; whether there was any before the deadline and the end of the program."""
        if not select.select([self.end], [], [], max(0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self.end, 65536)
        except OSError:  # Linux says so when the program has gone
            return False
        self.output += data
        self.screen = ESCAPES.sub("", self.output.decode("utf-8", errors="ignore")).replace("\r", "")
        return bool(data)
