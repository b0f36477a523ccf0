"""Starting guests: from one thread, and never as root."""

import os
import secrets
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from chatglm.errors import SandboxError

_FIRST_UID, _LAST_UID = 1_900_000_000, 2_147_000_000  # beyond users, containers and what systemd hands out


@cache
def _spawner(_process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="sandbox-spawner")


def spawn(command: Sequence[str | os.PathLike[str]], **options: Any) -> "subprocess.Popen[bytes]":
    """Starts a process from a thread that lives as long as this process.

    Trap: the parent-death signal of `--die-with-parent` fires when the *thread* that started the child ends, so a
    guest started from a short-lived worker thread would die with that.
    """
    return _spawner(os.getpid()).submit(lambda: subprocess.Popen(command, **options)).result()


def guest_uid(wanted: int | None) -> int | None:
    """The user id to start a guest under; None where this process is an ordinary user already.

    Trap: root stays root inside bubblewrap, whatever `--uid` and `--cap-drop` say. The kernel does not hold it to the
    process limit and lets it open /proc/sys/kernel/core_pattern for writing. So a root service gives each guest an id
    that nobody else has.

    Raises:
        SandboxError: root, and no other id exists here.
    """
    if os.geteuid() != 0:
        if wanted not in (None, os.geteuid()):
            raise SandboxError(f"sandbox run_as is {wanted}; only root can start a guest as another user")
        return None
    spans = _mapped(Path("/proc/self/uid_map").read_text())
    if wanted is not None:
        if not any(first <= wanted < first + length for first, length in spans):
            raise SandboxError(f"sandbox run_as is {wanted}, which this user namespace does not have")
        return wanted
    return _unused(spans)


def _mapped(text: str) -> list[tuple[int, int]]:
    """First id and length of each span of ids that exist here."""
    rows = [[int(column) for column in line.split()] for line in text.splitlines()]
    return [(first, length) for first, _, length in rows]


def _unused(spans: list[tuple[int, int]]) -> int:
    for first, length in spans:
        low, high = max(first, _FIRST_UID), min(first + length, _LAST_UID)
        if low < high:
            return low + secrets.randbelow(high - low)
    first, length = max(spans, key=lambda span: span[1], default=(0, 0))  # a container has fewer: take its last ones
    if length < 2000:
        raise SandboxError(
            f"the sandbox runs as root, and only {length} user ids exist here; a guest needs one of its own: start the "
            "program as an ordinary user, or give its container a range of at least 2000 ids"
        )
    return first + length - 1 - secrets.randbelow(500)


def tasks_of(uid: int) -> int:
    """Processes and threads of a user on this machine."""
    count = 0
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                count += len(os.listdir(f"/proc/{entry}/task"))
    return count
