"""Files of a guest, touched from outside without following it anywhere.

Everything goes through a descriptor of the guest's folder that was opened before foreign code ran, and `openat2`, which
the kernel resolves without links, without leaving the folder and without crossing into another file system.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

from chatglm.errors import SandboxError

from .names import acceptable
from .result import FileInfo

_OPENAT2 = 437  # x86_64 and aarch64
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_MAX_DEPTH = 8


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def open_beneath(folder: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of `path` below an open folder.

    Raises:
        OSError: not there, or a link, a mount or `..` is on the way.
    """
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, mode, _RESOLVE)
    descriptor: int = _libc().syscall(_OPENAT2, folder, os.fsencode(path), how, len(how))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return descriptor


class FolderFiles:
    """Regular files below one folder of a guest.

    Args:
        folder: an open descriptor of it, which this object closes.
        uid: act as this user (a root service acts as the guest).
        limit: bytes of one file.
        max_files: how many are listed.
    """

    def __init__(self, folder: int, uid: int | None, limit: int, max_files: int = 1000) -> None:
        self._folder, self._uid, self._limit, self._max_files = folder, uid, limit, max_files

    def close(self) -> None:
        """Lets go of the folder."""
        os.close(self._folder)

    @contextmanager
    def _as_guest(self) -> Iterator[None]:
        """Trap: root does not exist in the user namespace of the guest's file system (creating a file there fails
        with EOVERFLOW). For the length of a call this thread acts as the guest, and with its rights only."""
        if self._uid is None:
            yield
            return
        _libc().setfsgid(self._uid)
        _libc().setfsuid(self._uid)
        try:
            yield
        finally:
            _libc().setfsuid(os.geteuid())
            _libc().setfsgid(os.getegid())

    def put(self, name: str, data: bytes) -> None:
        """Writes a new file. What lies there under that name - perhaps a link to somewhere else - is removed first."""
        if len(data) > self._limit:
            raise SandboxError(f"file {name!r} has {len(data)} bytes; at most {self._limit} are allowed")
        *folders, last = name.split("/")
        with self._as_guest(), self._inner(folders) as folder:
            with suppress(FileNotFoundError):
                os.unlink(last, dir_fd=folder)
            descriptor = open_beneath(folder, last, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
            except OSError:  # half a file is worse than none
                os.unlink(last, dir_fd=folder)
                raise

    @contextmanager
    def _inner(self, folders: Iterable[str]) -> Iterator[int]:
        """A descriptor of a folder inside, made where it is missing."""
        descriptor = os.dup(self._folder)
        try:
            for name in folders:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                inner = open_beneath(descriptor, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def get(self, name: str) -> bytes:
        """The bytes of a regular file. Non-blocking, so that a FIFO in its place cannot hold the host up."""
        with self._as_guest():
            descriptor = open_beneath(self._folder, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SandboxError(f"{name!r} is not a regular file")
            if status.st_size > self._limit:
                raise SandboxError(f"file {name!r} has {status.st_size} bytes; at most {self._limit} are allowed")
            return file.read(self._limit)

    def list(self) -> tuple[list[FileInfo], int]:
        """Regular files with acceptable names, sorted, and how many entries were left out."""
        found: list[FileInfo] = []
        left_out = 0
        with self._as_guest():
            for path, status in self._walk("", 0):
                if stat.S_ISREG(status.st_mode) and acceptable(path) and len(found) < self._max_files:
                    found.append(FileInfo(path, status.st_size, status.st_mtime))
                else:
                    left_out += 1
                if left_out > self._max_files:
                    break
        return sorted(found, key=lambda file: file.name), left_out

    def _walk(self, folder: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
        """Everything but folders, by path; folders that cannot be opened are one entry."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        descriptor = open_beneath(self._folder, folder or ".", flags)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    path, status = folder + entry.name, entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        yield path, status
                    elif depth < _MAX_DEPTH and entry.name != "__pycache__" and not entry.name.startswith("."):
                        yield from self._walk(path + "/", depth + 1)
        except OSError:
            yield folder, os.stat_result((0,) * 10)
        finally:
            os.close(descriptor)
