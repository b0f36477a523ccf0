"""Which system calls a guest may make, as a classic BPF program for the kernel's seccomp filter.

Built from a table with the standard library: nothing to install, nothing to link. Sources for the numbers:
`asm/unistd_64.h` (x86_64) and `asm-generic/unistd.h` (aarch64) of Linux.
"""

import errno
import platform
import struct
from dataclasses import dataclass, field

from chatglm.errors import SandboxError

# call: number on x86_64, number on aarch64 (None: it does not exist there)
Calls = dict[str, tuple[int | None, int | None]]

# Ways to the kernel's inside, to other processes, to mounts, to the machine's state: never needed by a computation.
FORBIDDEN: Calls = {
    # tracing and reading other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    # large attack surface
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # what the host does in /usr, and instances of which its user has 128 altogether
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442),
    "statmount": (457, 457), "listmount": (458, 458),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "lookup_dcookie": (212, 18),
    # the machine's state
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58), "nfsservctl": (180, 42),
    # memory placement and pinning, processors
    "migrate_pages": (256, 238), "move_pages": (279, 239), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "get_mempolicy": (239, 236), "set_mempolicy_home_node": (450, 450), "sched_setaffinity": (203, 122),
    "mlock": (149, 228), "mlockall": (151, 230), "mlock2": (325, 284), "personality": (135, 92),
    # x86 only, all of them old
    "modify_ldt": (154, None), "iopl": (172, None), "ioperm": (173, None), "uselib": (134, None),
    "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None), "create_module": (174, None),
    "get_kernel_syms": (177, None), "query_module": (178, None),
}  # fmt: skip

# Answered as if the kernel did not know them, so that programs use the older way. clone3 keeps its flags behind a
# pointer, where no filter can look. The others are memory that no limit counts: a memfd has no resident size.
UNKNOWN: Calls = {
    "clone3": (435, 435), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgctl": (71, 187),
    "msgsnd": (69, 189), "semget": (64, 190), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180),
}  # fmt: skip

# Allowed but for certain values of one argument.
FILTERED: Calls = {
    "clone": (56, 220), "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29), "prctl": (157, 167),
    "setsockopt": (54, 208), "fcntl": (72, 25),
}  # fmt: skip

NEWEST = 462  # mseal. What comes after it was not looked at, so it does not exist here.
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone takes
_AF_UNIX = 1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # put characters into a terminal's input
_PR_SET_PDEATHSIG = 1  # without it a guest could outlive the host
_BUFFER_OPTIONS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and the FORCE variants: kernel memory nobody counts
_F_SETPIPE_SIZE = 1031

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def _argument(index: int) -> int:
    """Offset of the low word of an argument. All arguments looked at here are 32 bits wide for the kernel."""
    return 16 + 8 * index


@dataclass
class _Program:
    """Instructions of (code, jump if true, jump if false, constant)."""

    instructions: list[tuple[int, int, int, int]] = field(default_factory=list)

    def add(self, code: int, constant: int, true: int = 0, false: int = 0) -> None:
        self.instructions.append((code, true, false, constant))

    def answer(self, number: int, error: int) -> None:
        """This call fails with this error."""
        self.add(_EQUAL, number, 0, 1)
        self.add(_RETURN, _ERRNO | error)

    def filter(self, number: int, argument: int, test: int, values: tuple[int, ...], error: int, when: bool) -> None:
        """This call fails where its argument passes the test with one of the values (`when`), or with none of them."""
        self.add(_EQUAL, number, 0, len(values) + 3)
        self.add(_LOAD, _argument(argument))
        for left in range(len(values), 0, -1):
            self.add(test, values[-left], left, 0)
        # No value matched; behind it the answer for those that did.
        self.add(_RETURN, _ALLOW if when else _ERRNO | error)
        self.add(_RETURN, _ERRNO | error if when else _ALLOW)


def build_filter(machine: str | None = None, sockets: bool = True) -> bytes:
    """The filter for one machine; `sockets=False` forbids even Unix sockets (but for socket pairs).

    Raises:
        SandboxError: there is no table for this machine.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise SandboxError(f"no system call table for {machine!r}; there is one for {' and '.join(_ARCHITECTURES)}")
    column, architecture = _ARCHITECTURES[machine]
    program = _Program()
    program.add(_LOAD, _ARCHITECTURE)
    program.add(_EQUAL, architecture, 1, 0)
    program.add(_RETURN, _KILL_PROCESS)  # 32-bit calls on a 64-bit kernel have other numbers
    program.add(_LOAD, _NUMBER)
    program.add(_AT_LEAST, NEWEST + 1, 0, 1)
    program.add(_RETURN, _ERRNO | errno.ENOSYS)  # among them x86_64's second set of calls (x32)
    for table, error in ((FORBIDDEN, errno.EPERM), (UNKNOWN, errno.ENOSYS)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                program.answer(number, error)
    for name, argument, test, values, error, when in _filters(sockets):
        number = FILTERED[name][column]
        assert number is not None
        program.filter(number, argument, test, values, error, when)
    program.add(_RETURN, _ALLOW)
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program.instructions)


def _filters(sockets: bool) -> list[tuple[str, int, int, tuple[int, ...], int, bool]]:
    """Call, argument, test, values, error, and whether the values are the forbidden (True) or the only allowed ones.

    A network namespace does not cover every family: AF_VSOCK reaches the machine's host from inside it.
    """
    return [
        ("clone", 0, _ANY_BIT, (_NAMESPACES,), errno.EPERM, True),
        ("socket", 0, _EQUAL, (_AF_UNIX,) if sockets else (), errno.EAFNOSUPPORT, False),
        ("socketpair", 0, _EQUAL, (_AF_UNIX,), errno.EAFNOSUPPORT, False),
        ("ioctl", 1, _EQUAL, (_TIOCSTI, _TIOCLINUX), errno.EPERM, True),
        ("prctl", 0, _EQUAL, (_PR_SET_PDEATHSIG,), errno.EPERM, True),
        ("setsockopt", 2, _EQUAL, _BUFFER_OPTIONS, errno.EPERM, True),
        ("fcntl", 1, _EQUAL, (_F_SETPIPE_SIZE,), errno.EPERM, True),
    ]
