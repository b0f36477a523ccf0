"""Starts the guest: walls first, then the shell, then cell after cell."""

import gc
import importlib
import os
import resource
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

from . import walls
from .channel import Channel, Interrupts
from .exhausted import exhausted
from .files import handle as handle_file
from .fonts import FontFinder
from .probe import probe
from .repair import Repair
from .shell import build_shell, run_cell, show_figures
from .streams import Stream


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
        repair = Repair(interrupts.handler, shell.user_ns, settings["work"])
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
            channel.send(_load(request["modules"]) if request["op"] == "import" else handle_file(request))
            continue
        for stream in streams:
            stream.begin_cell()
        done = {"t": "done", "id": request["id"], "ok": False, "repaired": []}
        try:
            try:
                interrupts.pending, interrupts.in_cell = False, True
                done["ok"] = run_cell(shell, channel, request["code"])
            except KeyboardInterrupt:
                pass
            finally:
                interrupts.in_cell = False
                done["repaired"] = repair()  # before anything else happens
            for stream in streams:
                stream.flush()
            if not channel.forked:
                show_figures(shell)
                probe(shell, request["token"])
            done["exhausted"] = exhausted()
        except BaseException as error:
            done["broken"] = f"{type(error).__name__}: {error}"
        if channel.forked:
            leave(0)  # a child came back from the cell: it is not the one that answers
        channel.send(done)


def _load(modules: list[str]) -> dict[str, Any]:
    """Imports modules before a cell asks for them, and returns the frame that says how it went."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # what they say is nobody's output
        for name in modules:
            try:
                importlib.import_module(name)
            except Exception as error:
                return {"t": "failed", "module": getattr(error, "name", None) or name, "reason": str(error)}
    gc.freeze()
    return {"t": "loaded"}


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
