"""Landlock and seccomp as a process puts them on itself, through bare system calls. Neither can be taken off again."""

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NoReturn

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on x86_64 and aarch64
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2  # prctl

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_FILE, _MAKE_SOCKET, _MAKE_FIFO, _MAKE_LINK = (
    1 << bit for bit in (4, 5, 7, 8, 9, 10, 12)
)
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
# Never device nodes: those rights are handled below and granted to nobody.
WRITE = (
    READ | WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_FILE | _MAKE_SOCKET | _MAKE_FIFO | _MAKE_LINK
) | (_REFER | _TRUNCATE)
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEVICE


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _fail(what: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


def landlock_abi() -> int:
    """The version of Landlock this kernel has; 0 where it has none or it is switched off."""
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, 1)))


def handled(abi: int) -> tuple[int, int, int]:
    """What a ruleset of this version can forbid: file rights, TCP rights, scopes (signals and abstract sockets)."""
    files = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEVICE)):
        files |= right if abi >= since else 0
    return files, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0


def landlock(read: Iterable[str], write: Iterable[str]) -> int:
    """Forbids this process and its children everything but reading below `read` and all but devices below `write`.

    Paths that do not exist are passed over. Returns the version in force.

    Raises:
        OSError: the kernel has no Landlock, or refused.
    """
    libc, abi = _libc(), landlock_abi()
    if abi == 0:
        raise OSError("this kernel has no Landlock")
    files, network, scopes = handled(abi)
    attributes = struct.pack("<QQQ", files, network, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        _fail("Landlock ruleset")
    for rule, _descriptor in _rules(read, write, files):
        if libc.syscall(_ADD_RULE, ruleset, 1, rule, 0):
            _fail("Landlock rule")
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_RESTRICT_SELF, ruleset, 0):
        _fail("Landlock restriction")
    os.close(ruleset)
    return abi


def _rules(read: Iterable[str], write: Iterable[str], files: int) -> Iterator[tuple[bytes, int]]:
    """One packed rule per path, and the descriptor it names, which is open until the next rule is asked for."""
    for paths, rights in ((read, READ), (write, WRITE)):
        for path in paths:
            try:
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = rights & files & (-1 if os.path.isdir(path) else _FOR_FILES)
            yield struct.pack("<Qi", allowed, descriptor), descriptor
            os.close(descriptor)


def seccomp(program: bytes) -> None:
    """Puts a filter on this process (under bubblewrap that is done before it starts).

    Raises:
        OSError: the kernel refused.
    """

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]

    libc, buffer = _libc(), ctypes.create_string_buffer(program, len(program))
    description = Program(len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(description), 0, 0):
        _fail("seccomp filter")
