"""A running guest as the host holds it: descriptors, processes, limits. What a tier starts is one of these."""

import os
import select
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

from chatglm.errors import MissingExtraError, SandboxError

from . import processes
from .config import SandboxConfig
from .frames import FrameReader, GuestLost, encode
from .result import FileInfo

_EXTRA = ("IPython", "traitlets", "numpy", "pandas", "matplotlib")  # what the extra `code` brings


class TierUnavailable(SandboxError):
    """This tier cannot start guests on this machine; the next may."""


class Files(Protocol):
    """Access to /mnt/data."""

    def put(self, name: str, data: bytes) -> None: ...
    def get(self, name: str) -> bytes: ...
    def list(self) -> tuple[list[FileInfo], int]: ...
    def close(self) -> None: ...


class Guest(ABC):
    """A started guest.

    Args:
        process: what was started; its end is the guest's end.
        channel: descriptors to read frames from and write frames to.
        streams: descriptors of what is written to the guest's descriptors 1 and 2.
    """

    files: Files

    def __init__(
        self,
        config: SandboxConfig,
        process: "subprocess.Popen[bytes]",
        channel: tuple[int, int],
        streams: tuple[int, int],
    ) -> None:
        self.config, self.process = config, process
        self.read_fd, self.write_fd = channel
        self.stdout_fd, self.stderr_fd = streams
        self.reader = FrameReader()
        self._ending = threading.Lock()
        self._ended = False
        for descriptor in {*channel, *streams}:
            os.set_blocking(descriptor, False)

    @abstractmethod
    def interrupt(self) -> None:
        """SIGINT to every process.

        Trap: `os.system` ignores it in the parent while the child runs, so the child must hear it too.
        """

    @abstractmethod
    def freeze(self) -> None:
        """Nothing in the guest runs until `thaw`: nothing is mined, no file changes while the host reads it.

        Raises:
            GuestLost: it cannot be stopped.
        """

    @abstractmethod
    def thaw(self) -> None:
        """Everything runs again."""

    @abstractmethod
    def check(self) -> None:
        """Raises GuestLost where a limit is crossed that the guest's kernel does not hold by itself."""

    @abstractmethod
    def end(self) -> None:
        """Ends every process of the guest and waits until they are gone. Called once, by `kill`."""

    def kill(self) -> None:
        """Ends the guest. From any thread and as often as one likes: `close` may be giving its descriptors back."""
        with self._ending:
            if not self._ended:
                self._ended = True
                self.end()

    def close(self) -> None:
        """Kills the guest and gives every descriptor back."""
        self.kill()
        if hasattr(self, "files"):
            self.files.close()
        for descriptor in {self.read_fd, self.write_fd, self.stdout_fd, self.stderr_fd}:
            os.close(descriptor)

    def exit_text(self) -> str:
        """How the guest ended, and what it said last."""
        code = self.process.poll()
        said = drain(self.stderr_fd)[-2000:].decode(errors="replace").strip()
        return ("it still runs" if code is None else f"exit status {code}") + (f": {said}" if said else "")

    def start(self, *frames: dict[str, Any]) -> None:
        """Sends the program and its settings, and waits until the shell is ready.

        Raises:
            MissingExtraError: the guest's Python lacks a package.
            SandboxError: it failed otherwise.
        """
        deadline = time.monotonic() + self.config.start_seconds
        try:
            answer = self.exchange(b"".join(map(encode, frames)), deadline)
        except GuestLost as lost:
            raise SandboxError(f"the guest did not start: {lost} ({self.exit_text()})") from None
        if self._imported(answer).get("t") != "ready":
            raise SandboxError(f"the guest did not start: it sent {str(answer)[:200]!r}")
        drain(self.stdout_fd), drain(self.stderr_fd)  # start-up chatter is nobody's output

    def load(self, modules: Iterable[str]) -> None:
        """Imports modules, so that a cell need not wait for them.

        Raises:
            MissingExtraError, SandboxError: one cannot be imported; the guest goes on without it.
            GuestLost: the guest ended, or they took longer than a guest may take to start.
        """
        deadline = time.monotonic() + self.config.start_seconds
        self._imported(self.exchange(encode({"op": "import", "modules": list(modules)}), deadline))
        drain(self.stdout_fd), drain(self.stderr_fd)

    def _imported(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("t") == "failed":
            module = str(answer.get("module"))
            if module.split(".")[0] in _EXTRA:
                raise MissingExtraError(module, "code", "the code interpreter")
            raise SandboxError(f"the guest's Python cannot import {module!r}: {answer.get('reason')}")
        return answer

    def exchange(self, message: bytes, deadline: float) -> dict[str, Any]:
        """Sends a message while no cell runs and returns the frame that answers it.

        Raises:
            GuestLost: nothing came by the deadline, or the guest ended.
        """
        pending = memoryview(message)
        while True:
            poll = select.poll()
            poll.register(self.read_fd, select.POLLIN)
            if pending:
                poll.register(self.write_fd, select.POLLOUT)
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if not ready:
                raise GuestLost("timeout", "no answer in time")
            pending = self.write(pending)
            frames = self.read()
            if frames:
                return frames[0]

    def write(self, pending: memoryview) -> memoryview:
        """Sends what fits and returns the rest.

        Raises:
            GuestLost: nobody listens any more.
        """
        try:
            return pending[os.write(self.write_fd, pending) :] if pending else pending
        except BlockingIOError:
            return pending
        except OSError:
            raise GuestLost("crash", "the interpreter ended") from None

    def read(self) -> list[dict[str, Any]]:
        """The frames that have arrived.

        Raises:
            GuestLost: the other end is closed, or something else than frames came.
        """
        try:
            data = os.read(self.read_fd, 1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise GuestLost("crash", "the interpreter ended")
        return self.reader.feed(data)


class LocalGuest(Guest):
    """A guest whose processes this machine shows: all descendants of `root`."""

    def __init__(
        self,
        config: SandboxConfig,
        process: "subprocess.Popen[bytes]",
        channel: tuple[int, int],
        streams: tuple[int, int],
        root: int,
    ) -> None:
        super().__init__(config, process, channel, streams)
        self.root = root

    def interrupt(self) -> None:
        for process in processes.below(self.root):
            processes.send(process.pid, signal.SIGINT)

    def freeze(self) -> None:
        if not processes.stop_all(self.root):
            raise GuestLost("processes", "its processes could not be stopped after the cell")

    def thaw(self) -> None:
        processes.wake_all(self.root)

    def check(self) -> None:
        config, running = self.config, processes.below(self.root)
        used = processes.memory_of(running, config.memory)
        if used > config.memory:
            raise GuestLost("memory", f"it used {used >> 20} MiB; at most {config.memory >> 20} MiB are allowed")
        available = processes.available_memory()
        if available < config.host_reserve:
            raise GuestLost("memory", f"the machine has only {available >> 20} MiB left")
        threads = sum(process.num_threads for process in running)
        if threads > config.num_processes + 8:
            raise GuestLost("processes", f"it ran {threads} processes; at most {config.num_processes} are allowed")


def drain(descriptor: int) -> bytes:
    """Everything waiting in a non-blocking pipe, at most 1 MiB at a time."""
    data = bytearray()
    while len(data) < 1 << 20:
        try:
            piece = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            break
        if not piece:
            break
        data += piece
    return bytes(data)
