"""Starts the guest: walls first, then the shell, then cell after cell."""

import gc
import importlib
import os
import resource
import signal
import sys
from typing import Any

from . import walls
from .channel import Channel, Interrupts
from .files import handle as handle_file
from .fonts import FontFinder
from .repair import Repair
from .shell import build_shell, run_cell
from .streams import Stream

_ROOM = 8 << 20  # bytes that the next cell may well need


def main(read_fd: int, write_fd: int) -> None:
    """Serves the host on two descriptors (they may be the same) until it hangs up."""
    interrupts = Interrupts()
    channel = Channel(read_fd, write_fd, interrupts)
    settings = channel.receive()
    _limit(settings["limits"])
    _raise_walls(settings)
    signal.signal(signal.SIGINT, interrupts.handler)
    os.chdir(settings["work"])
    streams = (Stream("stdout", 1, channel), Stream("stderr", 2, channel))
    try:
        shell = build_shell(channel, settings["image_size"])
        sys.meta_path.insert(0, FontFinder())
        sys.stdout, sys.stderr = streams
        repair = Repair(interrupts.handler)
        for name in settings["preload"]:
            importlib.import_module(name)
        shell.run_cell("None", store_history=False, silent=True)  # what the first cell would have to load
    except ImportError as error:
        channel.send({"t": "failed", "module": error.name or "", "reason": str(error)})
        return
    sys.path.append(settings["work"])  # last: an uploaded numpy.py must not stand in for the real one
    gc.freeze()  # what was imported is no garbage: never look through it again
    channel.send({"t": "ready"})
    _serve(channel, interrupts, shell, streams, repair)


def _serve(channel: Channel, interrupts: Interrupts, shell: Any, streams: Any, repair: Repair) -> None:
    leave = os._exit
    while True:
        try:
            request = channel.receive()
        except EOFError:
            leave(0)
        if request["op"] != "run":
            channel.send(handle_file(request))
            continue
        for stream in streams:
            stream.begin_cell()
        interrupts.pending, interrupts.in_cell = False, True
        try:
            success, repaired = run_cell(shell, channel, request["code"], repair)
            for stream in streams:
                stream.flush()
        except KeyboardInterrupt:
            success, repaired = False, repair()
        finally:
            interrupts.in_cell = False
        if channel.forked:
            leave(0)  # a child came back from the cell: it is not the one that answers
        done = {"t": "done", "id": request["id"], "ok": success, "repaired": repaired, "exhausted": not _has_room()}
        channel.send(done)


def _has_room() -> bool:
    """Whether there is address space for another cell."""
    try:
        bytearray(_ROOM)
    except MemoryError:
        return False
    return True


def _limit(limits: dict[str, int]) -> None:
    """Hard and soft alike, so that nobody inside can raise them."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # a host may run at real-time priority, a guest never
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            resource.setrlimit(kind, (value, value))
    os.nice(5)
    os.umask(0o077)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # the first to go when the machine runs out of memory
    except OSError:
        pass  # only a preference; where /proc is not writable the watchdog still watches


def _raise_walls(settings: dict[str, Any]) -> None:
    rules = settings["landlock"]
    if rules is not None:
        walls.landlock(rules["read"], rules["write"])
    if settings["seccomp"]:
        walls.seccomp(bytes.fromhex(settings["seccomp"]))
