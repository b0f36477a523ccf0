"""The processes of a guest, seen from outside: who they are, what they use, stopping and waking them."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_PAUSE = 0.0005  # seconds until stopping or waking is tried again
_ROUNDS = 50  # how often waking is tried
_STOPPED, _ENDED = "T", "ZX"  # X: it was gone before it could be looked at


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat. `resident` is in bytes; pages shared with others count in each of them."""

    pid: int
    parent: int
    state: str
    resident: int
    num_threads: int


def read(pid: int) -> Process:
    """What the kernel says of one process; state X where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return Process(pid, 0, "X", 0, 0)
    columns = text.rsplit(")", 1)[1].split()  # the name before may hold anything, spaces and brackets too
    return Process(pid, int(columns[1]), columns[0], int(columns[21]) * _PAGE, int(columns[17]))


def _children(pid: int) -> Iterator[int]:
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        return  # it ended meanwhile


@cache
def _lists_children() -> bool:
    """Whether this kernel tells the children of a process; otherwise all processes have to be looked through."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def below(root: int) -> list[Process]:
    """All descendants of a process, without itself."""
    if not _lists_children():
        return _below_among([read(int(name)) for name in os.listdir("/proc") if name.isdigit()], root)
    found, left = [], list(_children(root))
    while left:
        process = read(left.pop())
        found.append(process)
        left += _children(process.pid)
    return found


def _below_among(processes: list[Process], root: int) -> list[Process]:
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    found = list(children.get(root, ()))
    for process in found:  # which grows while it is gone through
        found += children.get(process.pid, ())
    return found


def proportional(pid: int) -> int | None:
    """Resident bytes with shared pages divided among those who share them; None where that cannot be read."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), None)


def memory_of(processes: list[Process], limit: int) -> int:
    """Resident bytes together. Only where the quick sum is over the limit is it worth dividing the shared pages.

    A process can make its details unreadable (PR_SET_DUMPABLE); then its whole resident size counts.
    """
    total = sum(process.resident for process in processes)
    return total if total <= limit else sum(_share(process.pid) for process in processes)


def _share(pid: int) -> int:
    own = proportional(pid)
    # Looked up again: it is unreadable, or ended a moment ago and uses nothing any more.
    return read(pid).resident if own is None else own


def available_memory() -> int:
    """Bytes the machine can still give away."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 1 << 62


def send(pid: int, number: signal.Signals) -> None:
    """A signal, if the process is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def stop_all(root: int, within: float = 5.0) -> bool:
    """Stops every descendant; whether that could be done in so many seconds.

    Trap: a process that forks and ends without pause can be gone whenever it is looked at. Nothing is known to stand
    still until two looks in a row find the same processes and none of them awake.
    """
    end, before = time.monotonic() + within, {-1}
    while time.monotonic() < end:
        found = below(root)
        numbers = {process.pid for process in found}
        awake = [process for process in found if process.state not in _STOPPED + _ENDED]
        # A signal already sent may not have arrived (D: waiting in the kernel), or may have been taken back.
        for process in awake:
            send(process.pid, signal.SIGSTOP)
        if numbers == before and not any(process.state != "D" for process in awake):
            return True
        before = numbers
        time.sleep(_PAUSE)
    return False


def wake_all(root: int) -> None:
    """Wakes every descendant.

    Trap: a stop may still be on its way to a process that looks awake. So all get the signal, whatever their state.
    """
    for _ in range(_ROUNDS):
        processes = below(root)
        for process in processes:
            send(process.pid, signal.SIGCONT)
        if not any(process.state == _STOPPED for process in below(root)):
            return
        time.sleep(_PAUSE)
