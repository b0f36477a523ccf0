"""What a guest may use."""

import math
from dataclasses import dataclass, fields
from typing import Any

from chatglm.errors import SandboxError

WORK = "/mnt/data"  # where a guest's files are; `chat.message.FILES_FOLDER` is the same in what models are told
LIBRARIES = ("numpy", "pandas", "matplotlib.pyplot")  # what most cells import
KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """What a guest may use. Sizes are in bytes, times in seconds; crossing a limit ends the guest, not the host.

    Args:
        wall_seconds: a cell that takes longer is interrupted (`Sandbox.run(timeout=)` overrides it).
        grace_seconds: an interrupted cell that still runs after this long is killed.
        start_seconds: a guest that is not ready by then has failed to start.
        idle_seconds: a guest nobody used for this long ends (None: never).
        cpu_seconds: processor time of one process over its whole life.
        memory: resident bytes of all processes of a guest together.
        address_space: virtual bytes of one process.
        host_reserve: when the machine has less memory than this available, a running guest is killed.
        num_processes: processes and threads of a guest together.
        num_open_files: descriptors of one process.
        num_sockets: sockets of a guest together (bubblewrap tiers). Each can hold 280 kB of the kernel's memory.
        disk: bytes under /mnt/data. It is a file system in memory; nothing reaches the host's disk.
        temporary: bytes under /tmp, and the same again under /dev/shm.
        num_files: files in any one of these.
        file_size: bytes of one file.
        transfer_size: bytes of one uploaded or fetched file.
        kept_size: bytes of files that the host keeps, to put them back when a guest had to be killed.
        notebook_size: bytes of outputs that the host keeps for `export_notebook`; of more, the oldest are dropped.
        code_chars: characters of one cell's code.
        output_chars: characters of text kept of one cell; of more, the beginning and the end are kept.
        output_size: bytes a cell may write altogether before it is killed.
        num_images: images kept of one cell.
        image_size: bytes of one image.
        image_pixels: pixels of one image.
        preload: modules imported before the first cell.
        python: the guest's Python program (None: the one running now). It needs the packages of the extra `code`.
        image: the container image of the container tier; never pulled.
        run_as: user id of the guest where the host is root (None: one that nobody else has).
    """

    wall_seconds: float = 30.0
    grace_seconds: float = 2.0
    start_seconds: float = 30.0
    idle_seconds: float | None = 1800.0
    cpu_seconds: int = 600
    memory: int = 1536 * MiB
    address_space: int = 4 * GiB
    host_reserve: int = 256 * MiB
    num_processes: int = 64
    num_open_files: int = 128
    num_sockets: int = 512
    disk: int = 256 * MiB
    temporary: int = 64 * MiB
    num_files: int = 20_000
    file_size: int = 128 * MiB
    transfer_size: int = 64 * MiB
    kept_size: int = 64 * MiB
    notebook_size: int = 64 * MiB
    code_chars: int = 1_000_000
    output_chars: int = 64 * KiB
    output_size: int = 32 * MiB
    num_images: int = 8
    image_size: int = 4 * MiB
    image_pixels: int = 40_000_000
    preload: tuple[str, ...] = ()
    python: str | None = None
    image: str = "chatglm-sandbox"
    run_as: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            check = _CHECKS.get(str(field.type))
            value = getattr(self, field.name)
            if check is not None and not check(value):
                raise SandboxError(f"sandbox {field.name} is {value!r}; it must be {_WANTED[str(field.type)]}")
        if self.run_as == 0:
            raise SandboxError("sandbox run_as is 0; the guest must never be root, choose another user id")
        if not self.image or self.image.startswith("-"):
            raise SandboxError(f"sandbox image is {self.image!r}; it must be the name of a container image")


def seconds(value: Any) -> bool:
    """Whether this is a positive, finite number of seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _modules(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in value
    )


_CHECKS = {
    "<class 'float'>": seconds,
    "<class 'int'>": _whole,
    "float | None": lambda value: value is None or seconds(value),
    "int | None": lambda value: value is None or value == 0 or _whole(value),
    "<class 'str'>": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or (isinstance(value, str) and value != ""),
    "tuple[str, ...]": _modules,
}
_WANTED = {
    "<class 'float'>": "a positive number of seconds",
    "<class 'int'>": "a whole number of at least 1",
    "float | None": "a positive number of seconds or None",
    "int | None": "a user id or None",
    "<class 'str'>": "a text",
    "str | None": "a path or None",
    "tuple[str, ...]": "a tuple of module names",
}
