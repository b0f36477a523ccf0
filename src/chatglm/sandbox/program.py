"""The guest's program as the host sends it: which Python, which source, which limits."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from chatglm.errors import SandboxError

from .config import WORK, SandboxConfig

# In the order they need each other.
_MODULES = ("walls", "channel", "exhausted", "files", "fonts", "repair", "streams", "shell", "probe", "main")


@cache
def _source(name: str) -> str:
    return (files("chatglm.sandbox.guest") / f"{name}.py").read_text(encoding="utf-8")


def sources() -> dict[str, Any]:
    """The first frame for a guest."""
    return {"sources": [[name, _source(name)] for name in _MODULES]}


def command(python: str, read_fd: int, write_fd: int) -> list[str]:
    """How a guest is started. Isolated: no environment variables, no user site, no current folder on the path.

    The settings follow over the channel: a command line can be read by everybody on the machine, and by the guest.
    """
    return [python, "-I", "-B", "-X", "utf8", "-c", _source("boot"), str(read_fd), str(write_fd)]


def settings(config: SandboxConfig, work: str = WORK, **walls: Any) -> dict[str, Any]:
    """The second frame for a guest: limits, walls, what to import."""
    limits = {
        "RLIMIT_AS": config.address_space, "RLIMIT_CPU": config.cpu_seconds, "RLIMIT_FSIZE": config.file_size,
        "RLIMIT_NPROC": config.num_processes, "RLIMIT_NOFILE": config.num_open_files,
        # A core file would hold the guest's memory. Trap: where core_pattern is a pipe the kernel ignores this limit.
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_RTPRIO": 0, "RLIMIT_SIGPENDING": 1024,
        "RLIMIT_STACK": 64 << 20,
    }  # fmt: skip
    return {
        "limits": limits | walls.pop("limits", {}), "work": work,
        "image_size": config.image_size, "landlock": None, "seccomp": "", **walls,
    }  # fmt: skip


def environment(home: str, python: str = "/usr/bin/python3") -> dict[str, str]:
    """All environment variables a guest has. A `python` its code starts is the guest's own."""
    return {
        "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin", "HOME": home, "TMPDIR": home,
        "USER": "sandbox", "LANG": "C.UTF-8",
        "TZ": "UTC", "PYTHONDONTWRITEBYTECODE": "1", "IPYTHONDIR": f"{home}/.ipython",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # Trap: matplotlib needs a folder it can write to, or makes a new one with a warning on every start.
        "MPLCONFIGDIR": f"{home}/.matplotlib",
        "PIP_NO_INDEX": "1",  # without a network pip would try again and again before it says so
        # A thread pool per core of a large machine would not fit into the process limit.
        "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "NUMEXPR_NUM_THREADS": "2",
        "MALLOC_ARENA_MAX": "2",
    }  # fmt: skip


@dataclass(frozen=True)
class Python:
    """A Python for guests: the program, and the paths it needs beside /usr."""

    program: str
    paths: tuple[str, ...]


# What an installed Python consists of. Nothing else of its folder is shown: a virtual environment may lie in a project
# among keys and notes, and pip.conf may hold passwords.
_PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "include", "share", "pyvenv.cfg")
_ASK = "import json, sys; print(json.dumps([sys.executable, sys.prefix, sys.base_prefix]))"


@cache
def find_python(program: str | None) -> Python:
    """The guest's Python.

    Raises:
        SandboxError: it does not run, or showing it would show a whole home folder or the whole machine.
    """
    if program is None or program == sys.executable:
        facts = [sys.executable, sys.prefix, sys.base_prefix]
    else:
        facts = _ask(program)
    executable, prefix, base = facts
    # The chain of links a virtual environment's python is, and what the chain ends in.
    places = [prefix, base, os.path.realpath(prefix), os.path.realpath(base)]
    real = Path(executable).resolve()
    if real.parent.name == "bin":
        places.append(str(real.parent.parent))
    folders = [Path(place) for place in dict.fromkeys(places) if not _in_usr(place)]
    home = Path(os.path.expanduser("~"))  # "~" itself for a user who has none
    for folder in folders:
        if folder in (home, home / ".local", *home.parents, Path("/"), Path("/etc"), Path("/var"), Path("/tmp")):
            raise SandboxError(
                f"the guest's Python {executable!r} lives in {str(folder)!r}, which cannot be shown to a guest; use "
                "one from /usr or a virtual environment, or name one with SandboxConfig(python=)"
            )
    return Python(executable, tuple(str(path) for folder in folders for path in _parts(folder)))


def _in_usr(folder: str) -> bool:
    return folder == "/usr" or folder.startswith("/usr/")


def _parts(folder: Path) -> list[Path]:
    return [folder / name for name in _PARTS if (folder / name).exists()]


def _ask(program: str) -> list[str]:
    try:
        answer = subprocess.run([program, "-I", "-c", _ASK], capture_output=True, text=True, timeout=30, check=True)
        facts: list[str] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxError(f"the guest's Python {program!r} does not run: {error}") from error
    return facts
