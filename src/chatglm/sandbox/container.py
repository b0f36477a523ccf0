"""The tier with a container engine: Docker or Podman, also on macOS and Windows.

The same guest program in an image that stays on this machine: it is never pulled. Files go over the channel, because
the host cannot see the container's file system.
"""

import base64
import os
import secrets
import shutil
import subprocess
import sys
import time
from typing import Any

from chatglm.errors import SandboxError

from . import program
from .config import WORK, SandboxConfig
from .frames import GuestLost, encode
from .guest_handle import Guest, TierUnavailable
from .names import acceptable
from .result import FileInfo
from .spawn import spawn

_ENGINES = ("docker", "podman")
_PIECE = 4 << 20  # bytes of a file in one frame
_COMMAND_SECONDS = 20.0
# Waits until the host is gone (its end of the pipe is closed), then ends the container. A paused one would stay for
# ever: it cannot notice the end of its input.
_WATCHMAN = """
import subprocess, sys
sys.stdin.buffer.read()
subprocess.run([sys.argv[1], "rm", "--force", sys.argv[2]], capture_output=True, timeout=60)
"""
RECIPE = (
    "printf 'FROM python:3.12-slim\\nRUN pip install ipython matplotlib numpy pandas\\n' | {engine} build -t {image} -"
)


def find_engine(config: SandboxConfig) -> str:
    """The first engine that answers and has the image.

    Raises:
        TierUnavailable: none does.
    """
    reasons = []
    for name in _ENGINES:
        path = shutil.which(name)
        reason = "is not installed" if path is None else _objection(path, name, config.image)
        if path is not None and reason is None:
            return path
        reasons.append(f"{name} {reason}")
    raise TierUnavailable("; ".join(reasons))


def _objection(path: str, name: str, image: str) -> str | None:
    try:
        version = _run(path, "version", "--format", "{{.Server.Version}}")
        if version.returncode:
            return f"does not answer: {_last_line(version)}"
        if _run(path, "image", "inspect", image).returncode:
            return f"has no image {image!r}; build it with: {RECIPE.format(engine=name, image=image)}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not answer: {error}"
    return None


def _last_line(answer: "subprocess.CompletedProcess[str]") -> str:
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {answer.returncode}"


def _run(path: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([path, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=_COMMAND_SECONDS, check=False)  # fmt: skip


def _command(path: str, *words: str) -> None:
    """Tells the engine to do something to a guest.

    Raises:
        GuestLost: it did not.
    """
    try:
        answer = _run(path, *words)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuestLost("crash", f"the container engine does not answer: {error}") from None
    if answer.returncode:
        raise GuestLost("crash", f"the container engine refused to {words[0]}: {_last_line(answer)[:200]}")


def arguments(config: SandboxConfig, name: str) -> list[str]:
    """What the engine is told: no network, nothing writable but two file systems in memory, no rights, limits."""
    words = [
        "run", "--interactive", "--rm", "--pull", "never", "--name", name, "--init", "--network", "none", "--read-only",
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--ipc", "private", "--user", "65534:65534",
        "--pids-limit", str(config.num_processes + 8), "--memory", str(config.memory),
        "--memory-swap", str(config.memory),
        "--cpus", "2", "--shm-size", str(config.temporary), "--log-driver", "none",
        "--tmpfs", f"/tmp:rw,nosuid,nodev,size={config.temporary},mode=1777,nr_inodes={config.num_files}",
        "--tmpfs", f"{WORK}:rw,nosuid,nodev,size={config.disk},mode=1777,nr_inodes={config.num_files}",
        "--workdir", WORK, "--entrypoint", config.python or "python3",
    ]  # fmt: skip
    for key, value in program.environment("/tmp").items():
        if key != "PATH":
            words += ["--env", f"{key}={value}"]
    return [*words, config.image]


class ContainerGuest(Guest):
    """A guest in a container, reached through the engine's program. Its descriptors 0 and 1 carry the frames."""

    def __init__(self, config: SandboxConfig, process: "subprocess.Popen[bytes]", channel: tuple[int, int],
                 streams: tuple[int, int], engine: str, name: str) -> None:  # fmt: skip
        super().__init__(config, process, channel, streams)
        self._engine, self._name = engine, name
        self._paused = False
        self._watchman = spawn([sys.executable, "-I", "-S", "-c", _WATCHMAN, engine, name],
                               stdin=subprocess.PIPE, start_new_session=True)  # fmt: skip
        self.files = _ChannelFiles(self)

    def interrupt(self) -> None:
        _command(self._engine, "kill", "--signal", "INT", self._name)

    def freeze(self) -> None:
        if not self._paused:
            _command(self._engine, "pause", self._name)
            self._paused = True

    def thaw(self) -> None:
        if self._paused:
            _command(self._engine, "unpause", self._name)
            self._paused = False

    def check(self) -> None:
        """The engine holds memory and processes by itself; when it killed the guest, the channel ends."""

    def end(self) -> None:
        self._watchman.communicate()  # closes its input: it ends the container, as it would if the host were gone
        self.process.kill()
        self.process.wait()


class _ChannelFiles:
    """Files by messages to the guest. Its answers are as little trusted as everything else it says."""

    def __init__(self, guest: ContainerGuest) -> None:
        self._guest, self._number = guest, 0

    def close(self) -> None:
        """Nothing is held."""

    def _ask(self, operation: str, **request: Any) -> dict[str, Any]:
        self._number += 1
        message = {"op": operation, "id": -self._number, "work": WORK, **request}
        self._guest.thaw()
        try:
            answer = self._guest.exchange(encode(message), time.monotonic() + _COMMAND_SECONDS)
        finally:
            self._guest.freeze()
        if answer.get("t") != "file" or answer.get("id") != -self._number:
            raise GuestLost("protocol", "an answer to a question nobody asked")
        if "failed" in answer:
            raise OSError(str(answer["failed"])[:200])
        return answer

    def put(self, name: str, data: bytes) -> None:
        limit = self._guest.config.transfer_size
        if len(data) > limit:
            raise SandboxError(f"file {name!r} has {len(data)} bytes; at most {limit} are allowed")
        self._ask("put", name=name, data=base64.b64encode(data).decode())

    def get(self, name: str) -> bytes:
        data, limit = b"", self._guest.config.transfer_size
        while True:
            piece = base64.b64decode(str(self._ask("get", name=name, offset=len(data), length=_PIECE).get("data")))
            data += piece
            if len(data) > limit:
                raise SandboxError(f"file {name!r} has more than {limit} bytes, which is all that is allowed")
            if len(piece) < _PIECE:
                return data

    def list(self) -> tuple[list[FileInfo], int]:
        rows = self._ask("list", limit=1000).get("files")
        found = []
        for row in rows if isinstance(rows, list) else ():
            match row:
                case [str(name), int(size), int() | float() as modified] if acceptable(name):
                    found.append(FileInfo(name, size, float(modified)))
        return sorted(found, key=lambda file: file.name), (len(rows) if isinstance(rows, list) else 0) - len(found)


def start(config: SandboxConfig) -> Guest:
    """A guest in a container, ready for its first cell."""
    engine = find_engine(config)
    name = f"chatglm-sandbox-{secrets.token_hex(8)}"
    words = program.command("python3", 0, 1)[1:]
    (read, child_out), (child_in, write), (err, child_err) = os.pipe(), os.pipe(), os.pipe()
    process = None
    try:
        process = spawn([engine, *arguments(config, name), *words], stdin=child_in, stdout=child_out, stderr=child_err)
        guest = ContainerGuest(config, process, (read, write), (err, err), engine, name)
    except OSError as error:
        if process is not None:
            process.kill()
            process.wait()
        for descriptor in (read, write, err):
            os.close(descriptor)
        raise TierUnavailable(f"{engine} does not start: {error}") from error
    finally:
        for descriptor in (child_out, child_in, child_err):
            os.close(descriptor)
    try:
        guest.start(program.sources(), program.settings(config))
        guest.freeze()
    except GuestLost as lost:
        guest.close()
        raise TierUnavailable(str(lost)) from None
    except BaseException:
        guest.close()
        raise
    return guest
