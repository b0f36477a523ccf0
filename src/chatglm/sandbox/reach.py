"""A root service whose Python lies where its guests' user may not go, for example below /root.

In a mount namespace of its own, an empty folder is laid over the closed one, and only what is needed is mounted into
it at its old place. Then the program gives up root. The machine's own mounts are not touched.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .guest_handle import TierUnavailable

# Arguments: user id, pairs of [closed folder, needed path] as JSON, the command. Everything is opened before anything
# is covered, but in the new namespace: mounts of another one cannot be bound. setgroups comes first:
# after setuid nobody may.
_LAUNCHER = """
import ctypes, json, os, sys
uid, pairs, command = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args):
        error = ctypes.get_errno()
        sys.exit(f"{name} in the launcher of the sandbox: {os.strerror(error)}")
def mount(source, target, kind, flags, options=None):
    call("mount", source.encode(), target.encode(), kind, flags, options)
NEW_MOUNTS, PRIVATE, RECURSIVE, BIND = 0x20000, 1 << 18, 0x4000, 0x1000
call("unshare", NEW_MOUNTS)
mount("none", "/", None, PRIVATE | RECURSIVE)
opened = [(path, os.open(path, os.O_PATH)) for _, path in pairs]
for closed in dict.fromkeys(closed for closed, _ in pairs):
    mount("none", closed, b"tmpfs", 0, b"mode=0755,size=65536")
for path, descriptor in opened:
    os.makedirs(path if os.path.isdir(f"/proc/self/fd/{descriptor}") else os.path.dirname(path), exist_ok=True)
    if not os.path.isdir(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    mount(f"/proc/self/fd/{descriptor}", path, None, BIND | RECURSIVE)
    os.close(descriptor)
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.execv(command[0], command)
"""


def unreachable(paths: Iterable[str]) -> list[tuple[str, str]]:
    """The paths that other users cannot reach, each behind the outermost folder that is closed to them."""
    found = []
    for path in dict.fromkeys(paths):
        folders = reversed(Path(path).parents)
        closed = next((str(folder) for folder in folders if not os.stat(folder).st_mode & 0o001), None)
        if closed is not None:
            found.append((closed, path))
    return found


def as_user(uid: int | None, command: list[str], needed: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """The command and the options of Popen that start it as this user, who must be able to reach what is needed.

    Raises:
        TierUnavailable: something is out of reach, and this root may not mount anything.
    """
    if uid is None:
        return command, {}
    hidden = unreachable(needed)
    if hidden:
        return launcher(hidden, uid, command), {}
    return command, {"user": uid, "group": uid, "extra_groups": []}


def launcher(hidden: Sequence[tuple[str, str]], uid: int, command: Sequence[str]) -> list[str]:
    """The command, with the hidden paths made reachable and root given up before it starts.

    Raises:
        TierUnavailable: this root may not mount anything (a container).
    """
    if not _may_mount():
        raise TierUnavailable(
            f"the guest's user cannot reach {hidden[0][1]!r} behind {hidden[0][0]!r}, which only its owner may enter, "
            "and this root may not mount it elsewhere: start the program as an ordinary user, or install Python outside"
        )
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(uid), json.dumps(list(hidden)), *command]


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(effective >> 21 & 1)  # CAP_SYS_ADMIN
