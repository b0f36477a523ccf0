"""The filter, run by an interpreter of BPF programs: what it answers to every system call on both machines."""

import errno
import platform
import re
import struct
from pathlib import Path

import pytest

from chatglm.errors import SandboxError
from chatglm.sandbox import seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def answer(program, number, *arguments, architecture):
    """What the kernel would answer: the instructions this filter uses, and no other."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(arguments + (0,) * 6)[:6])
    steps = [struct.unpack_from("<HBBI", program, offset) for offset in range(0, len(program), 8)]
    place = accumulator = 0
    while True:
        code, true, false, constant = steps[place]
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x06:
            return constant
        else:
            test = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}[
                code
            ]
            place += true if test else false


@pytest.fixture(params=MACHINES)
def ask(request):
    column, architecture = MACHINES[request.param]
    program = seccomp.build_filter(request.param)

    def ask(call, *arguments):
        if isinstance(call, str):
            table = {**seccomp.FORBIDDEN, **seccomp.UNKNOWN, **seccomp.FILTERED}
            call = table[call][column]
        return answer(program, call, *arguments, architecture=architecture)

    ask.column, ask.program = column, program
    return ask


def refused(number):
    return ERRNO | number


def test_tables_are_answered(ask):
    for table, error in ((seccomp.FORBIDDEN, errno.EPERM), (seccomp.UNKNOWN, errno.ENOSYS)):
        for name, numbers in table.items():
            if numbers[ask.column] is not None:
                assert ask(name) == refused(error), name


def test_everything_else_up_to_the_newest_is_allowed_and_nothing_after_it(ask):
    named = {row[ask.column] for table in (seccomp.FORBIDDEN, seccomp.UNKNOWN) for row in table.values()}
    named |= {row[ask.column] for row in seccomp.FILTERED.values()}
    for number in range(seccomp.NEWEST + 1):
        if number not in named:
            assert ask(number) == ALLOW, number
    for number in (seccomp.NEWEST + 1, 1000, 0x40000000, 0x40000000 | 101, 0xFFFFFFFF):
        assert ask(number) == refused(errno.ENOSYS)


def test_arguments_are_looked_at(ask):
    assert ask("clone", 0x01200011) == ALLOW  # fork
    assert ask("clone", 0x003D0F00) == ALLOW  # a thread
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask("clone", flag | 17) == refused(errno.EPERM)
    for call in ("socket", "socketpair"):
        assert ask(call, 1) == ALLOW
        for family in (0, 2, 3, 10, 16, 17, 29, 38, 40, 44):
            assert ask(call, family) == refused(errno.EAFNOSUPPORT)
    assert ask("ioctl", 0, 0x5401) == ALLOW
    assert ask("ioctl", 0, 0x5412) == ask("ioctl", 0, 0x541C) == refused(errno.EPERM)
    assert ask("ioctl", 0, 0x5412 | 1 << 32) == refused(errno.EPERM)  # the kernel looks at 32 bits only
    assert ask("prctl", 15) == ALLOW
    assert ask("prctl", 1) == refused(errno.EPERM)
    assert ask("setsockopt", 3, 1, 2) == ALLOW
    assert all(ask("setsockopt", 3, 1, option) == refused(errno.EPERM) for option in (7, 8, 32, 33))
    assert ask("fcntl", 3, 2) == ALLOW
    assert ask("fcntl", 3, 1031) == refused(errno.EPERM)


def test_another_architecture_is_killed(ask):
    assert answer(ask.program, 0, architecture=0x40000003) == KILL


def test_without_sockets_only_pairs_are_left():
    program = seccomp.build_filter("x86_64", sockets=False)
    assert answer(program, 41, 1, architecture=0xC000003E) == refused(errno.EAFNOSUPPORT)
    assert answer(program, 53, 1, architecture=0xC000003E) == ALLOW


def test_unknown_machines_are_refused():
    with pytest.raises(SandboxError, match="riscv64"):
        seccomp.build_filter("riscv64")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with this machine's header")
def test_numbers_are_those_of_the_kernel():
    header = next(
        (
            path
            for path in map(Path, ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"))
            if path.exists()
        ),
        None,
    )
    if header is None:
        pytest.skip("needs linux-libc-dev")
    known = {name: int(number) for name, number in re.findall(r"__NR_(\w+) (\d+)", header.read_text())}
    for table in (seccomp.FORBIDDEN, seccomp.UNKNOWN, seccomp.FILTERED):
        for name, (number, _) in table.items():
            assert known.get(name, number) == number, name
