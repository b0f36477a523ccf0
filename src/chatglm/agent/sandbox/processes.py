"""The processes of a guest, seen from outside: who they are, what they use, stopping and waking them."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_ROUNDS, _PAUSE = 50, 0.0005  # how often and how soon stopping is tried again


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat. `resident` is in bytes; pages shared with others count in each of them."""

    pid: int
    state: str
    resident: int
    num_threads: int


def _read(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    columns = text.rsplit(")", 1)[1].split()  # the name before may hold anything, spaces and brackets too
    return Process(pid, columns[0], int(columns[21]) * _PAGE, int(columns[17]))


def _children(pid: int) -> Iterator[int]:
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        return  # it ended meanwhile


def below(root: int) -> list[Process]:
    """All descendants of a process, without itself."""
    found, left = [], list(_children(root))
    while left:
        process = _read(left.pop())
        if process is not None:
            found.append(process)
            left += _children(process.pid)
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
    if own is not None:
        return own
    process = _read(pid)  # looked up again: unreadable, or ended a moment ago and using nothing any more
    return 0 if process is None else process.resident


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


def stop_all(root: int) -> None:
    """Stops every descendant, again and again until none is left running (a fork may be under way)."""
    for _ in range(_ROUNDS):
        running = [process for process in below(root) if process.state not in "TZX"]
        if not running:
            return
        for process in running:
            send(process.pid, signal.SIGSTOP)
        time.sleep(_PAUSE)


def wake_all(root: int) -> None:
    """Wakes every descendant.

    Trap: a stop may still be on its way to a process that looks awake. So all get the signal, whatever their state.
    """
    for _ in range(_ROUNDS):
        processes = below(root)
        for process in processes:
            send(process.pid, signal.SIGCONT)
        if not any(process.state == "T" for process in below(root)):
            return
        time.sleep(_PAUSE)
