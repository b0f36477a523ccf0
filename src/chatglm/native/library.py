"""Finds and loads the kernels. Without them everything works through torch, and `why_not()` says what is missing."""

import ctypes
import os
from functools import lru_cache
from pathlib import Path

import torch

from chatglm.errors import ConfigError
from chatglm.native import structures

ABI = 5
MOST_THREADS = 1024  # CHATGLM_MOST_THREADS
FILE = Path(__file__).with_name("libchatglm.so")


class _Missing(Exception):
    """The library cannot be used; the text says why."""


def _open(path: Path) -> ctypes.CDLL:
    if os.environ.get("CHATGLM_NATIVE", "1") == "0":
        raise _Missing("switched off by CHATGLM_NATIVE=0")
    if not path.is_file():
        raise _Missing("this installation was made without a C++ compiler; install one and reinstall chatglm")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise _Missing(f"{path.name} does not load: {error}") from error
    return _checked(library)


def _checked(library: ctypes.CDLL) -> ctypes.CDLL:
    if (seen := library.chatglm_abi()) != ABI:
        raise _Missing(f"the library has interface {seen}, this version needs {ABI}; reinstall chatglm")
    try:
        library.chatglm_level_name.restype = ctypes.c_char_p
        library.chatglm_sizeof.restype = ctypes.c_int64
        library.chatglm_read.restype = ctypes.c_uint64
        library.chatglm_multiply_only.restype = ctypes.c_int64
        for name, types in structures.FUNCTIONS.items():
            getattr(library, name).argtypes = types
    except AttributeError as error:
        raise _Missing(f"the library lacks a function: {error}; reinstall chatglm") from error
    for name, structure in structures.BY_NAME.items():
        if library.chatglm_sizeof(name.encode()) != ctypes.sizeof(structure):
            raise _Missing(f"the library lays out {name!r} differently; reinstall chatglm")
    return library


@lru_cache(maxsize=1)
def _opened() -> tuple[ctypes.CDLL | None, str]:
    try:
        library = _open(FILE)
    except _Missing as error:
        return None, str(error)
    library.chatglm_set_num_threads(min(torch.get_num_threads(), MOST_THREADS))
    return library, ""


def available() -> bool:
    """Whether the native kernels can be used in this process."""
    return _opened()[0] is not None


def why_not() -> str:
    """Why `available()` is False; empty where it is True."""
    return _opened()[1]


def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        ConfigError: it cannot be used; says why.
    """
    found, reason = _opened()
    if found is None:
        raise ConfigError(f"the native CPU kernels cannot be used: {reason}")
    return found


def levels() -> list[str]:
    """Instruction sets this processor has kernels for, best first."""
    names = [library().chatglm_level_name(index).decode() for index in range(library().chatglm_num_levels())]
    return [name for index, name in enumerate(names) if library().chatglm_level_available(index)]


def level() -> str:
    """The instruction set in use."""
    name: bytes = library().chatglm_level_name(library().chatglm_level())
    return name.decode()


def use_level(name: str) -> None:
    """Use another instruction set from now on, in the whole process: for tests and comparisons.

    Raises:
        ConfigError: this processor lacks it, or there is no such one.
    """
    if name not in levels():
        raise ConfigError(f"instruction set is {name!r}; this processor has {', '.join(levels())}")
    names = [library().chatglm_level_name(index).decode() for index in range(library().chatglm_num_levels())]
    library().chatglm_set_level(names.index(name))


def num_threads() -> int:
    """Threads the kernels compute with."""
    count: int = library().chatglm_num_threads()
    return count


def set_num_threads(threads: int) -> None:
    """Compute with this many threads from now on; at first torch's number.

    Raises:
        ConfigError: not a number from 1 to 1024.
    """
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"the number of threads is {threads!r}; it must be a whole number from 1 to {MOST_THREADS}")
    library().chatglm_set_num_threads(threads)
