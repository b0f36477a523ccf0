"""The tier without namespaces (Landlock, seccomp and limits only), and the one without any wall at all.

Both need somebody who ends every process of a guest, also those that lost their parent, and also when the host is
killed. That is a small supervisor between host and guest, which adopts orphans.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from typing import Any

from . import processes, program
from .config import SandboxConfig
from .files import FolderFiles
from .frames import GuestLost
from .guest.walls import landlock_abi
from .guest_handle import Guest, LocalGuest, TierUnavailable
from .reach import as_user
from .seccomp import build_filter
from .spawn import guest_uid, spawn, tasks_of

_READABLE = (
    "/usr /bin /lib /lib64 /etc/ld.so.cache /etc/fonts /etc/localtime /dev/urandom /dev/zero /proc/meminfo "
    "/proc/cpuinfo"
).split()
_MIN_ABI = 6  # the first that keeps signals to the user's other processes inside

# Arguments: the descriptor whose end means that the host is gone, the folder to remove then, the command.
_SUPERVISOR = """
import ctypes, os, select, shutil, signal, sys
life, folder, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
signal.signal(signal.SIGINT, signal.SIG_IGN)
guest = os.fork()
if guest == 0:
    os.close(life)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(command[0], command)
for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:
    if descriptor not in (life, 1, 2):  # without a writer the host would be told of the end of 1 and 2 again and again
        try:
            os.close(descriptor)
        except OSError:
            pass  # the one that listed them
def below(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in file.read().split():
                    found += [int(child), *below(child)]
    except OSError:
        pass
    return found
code = 0
def reap():
    global code
    ended = False
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return ended
        if pid == guest:
            ended, code = True, os.waitstatus_to_exitcode(status)
while not reap() and not select.select([life], [], [], 0.05)[0]:
    pass
for _ in range(2000):
    left = below(os.getpid())
    for pid in left:
        try:
            os.kill(pid, 9)
        except OSError:
            pass
    reap()
    if not left:
        break
    select.select([], [], [], 0.002)
shutil.rmtree(folder, ignore_errors=True)
os._exit(code if code >= 0 else 128 - code)
"""


class SupervisedGuest(LocalGuest):
    """A guest below a supervisor, with an ordinary folder of the host to work in."""

    def __init__(self, config: SandboxConfig, process: "subprocess.Popen[bytes]", channel: int,
                 streams: tuple[int, int], life: int, folder: str, uid: int | None) -> None:  # fmt: skip
        super().__init__(config, process, (channel, channel), streams, process.pid)
        self._life, self._folder = life, folder
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.files = FolderFiles(descriptor, uid, config.transfer_size)

    def check(self) -> None:
        """No file system of its own: what lies in the folder is counted, which is slower and comes later."""
        super().check()
        count = size = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with suppress(OSError):
                    size += os.lstat(os.path.join(folder, name)).st_blocks * 512
                count += 1
            if count > self.config.num_files:
                raise GuestLost("files", f"more than {self.config.num_files} files")
            if size > self.config.disk:
                raise GuestLost("disk", f"more than {self.config.disk >> 20} MiB of files")

    def end(self) -> None:
        processes.wake_all(self.root)
        os.close(self._life)  # the supervisor ends the others first, then itself
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for process in processes.below(self.root):
                processes.send(process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def require_landlock() -> None:
    """Raises TierUnavailable where Landlock would not hold enough."""
    if sys.platform != "linux":
        raise TierUnavailable(f"Landlock needs Linux, this is {sys.platform}")
    abi = landlock_abi()
    if abi < _MIN_ABI:
        raise TierUnavailable(
            f"Landlock of this kernel has version {abi}; version {_MIN_ABI} (Linux 6.12) is the first that keeps "
            "signals to other processes inside"
        )


def start_landlock(config: SandboxConfig) -> Guest:
    """A guest behind Landlock, seccomp and limits.

    Trap: without a user namespace the process limit counts all processes of the user, so those running are added.
    """
    require_landlock()
    python, uid = program.find_python(config.python), guest_uid(config.run_as)
    folder = _work_folder(uid)
    walls = {
        "landlock": {"read": [*_READABLE, *python.paths], "write": [folder, "/dev/null"]},
        "seccomp": build_filter(sockets=False).hex(),  # no mount namespace: the host's sockets are within sight
        "limits": {"RLIMIT_NPROC": config.num_processes + tasks_of(os.geteuid() if uid is None else uid)},
    }
    return _start(config, python, uid, folder, walls)


def start_none(config: SandboxConfig) -> Guest:
    """A guest without walls: it may do everything the user may. Only time, size and cleaning up are looked after."""
    if sys.platform != "linux":
        raise TierUnavailable(f"running code unisolated is looked after on Linux only, this is {sys.platform}")
    uid = config.run_as if os.geteuid() == 0 else None
    limits = {"RLIMIT_NPROC": config.num_processes + tasks_of(os.geteuid() if uid is None else uid)}
    return _start(config, program.find_python(config.python), uid, _work_folder(uid), {"limits": limits})


def _work_folder(uid: int | None) -> str:
    folder = tempfile.mkdtemp(prefix=f"chatglm-sandbox-{os.getpid()}-")
    if uid is not None:
        os.chown(folder, uid, uid)
    return folder


def _start(
    config: SandboxConfig, python: program.Python, uid: int | None, folder: str, walls: dict[str, Any]
) -> SupervisedGuest:
    with ExitStack() as lent:  # what is the guest's alone is closed here, whatever happens
        ours, theirs = socket.socketpair()
        life, out, err = os.pipe(), os.pipe(), os.pipe()
        end = theirs.detach()
        for descriptor in (end, life[0], out[1], err[1]):
            lent.callback(os.close, descriptor)
        command = [python.program, "-I", "-S", "-c", _SUPERVISOR, str(life[0]), folder]
        command += program.command(python.program, end, end)
        command, options = as_user(uid, command, python.paths)
        try:
            process = spawn(
                command, cwd=folder, env=program.environment(folder, python.program), stdin=subprocess.DEVNULL,
                stdout=out[1], stderr=err[1], pass_fds=[end, life[0]], **options,
            )  # fmt: skip
        except OSError as error:
            for descriptor in (ours.detach(), life[1], out[0], err[0]):
                os.close(descriptor)
            shutil.rmtree(folder, ignore_errors=True)
            raise TierUnavailable(f"{command[0]} does not start: {error}") from error
    guest = SupervisedGuest(config, process, ours.detach(), (out[0], err[0]), life[1], folder, uid)
    try:
        guest.start(program.sources(), program.settings(config, folder, **walls))
    except BaseException:
        guest.close()
        raise
    return guest
