"""Every way to die or to break the interpreter: the status is true, and the next cell works."""

import time
from dataclasses import replace

import pytest
from conftest import SMALL, opened

# Code, and the key of the reason. All of these end the guest.
DEATHS = {
    "exit": ("import os; os._exit(3)", "crash"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "crash"),
    "abort": ("import os; os.abort()", "crash"),
    "kill-itself": ("import os; os.kill(os.getpid(), 9)", "crash"),
    "replace-itself": ("import os; os.execv('/bin/true', ['true'])", "crash"),
    "close-all-descriptors": ("import os; os.closerange(0, 128)", "crash"),
    "ignore-the-interrupt": ("import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass", "timeout"),
    "swallow-the-signal": ("from time import *\nwhile 1:\n    try: sleep(60)\n    except BaseException: 0", "timeout"),
    "busy-in-c": ("sum(range(10**13))", "timeout"),
    "stop-itself": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    "block-the-signal": ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [2])\nwhile True: pass", "timeout"),
}  # fmt: skip

# These must not end anything: variables stay.
SURVIVED = {
    "exception": "1/0",
    "system-exit": "raise SystemExit(3)",
    "exit-function": "exit()",
    "syntax-error": "def",
    "kill-everything-else": "import os; os.kill(-1, 9)",
    "recursion": "def f(): f()\nf()",
    "exception-without-text": "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "result-without-text": "class R:\n    def __repr__(self): raise ValueError\nR()",
    "streams-gone": "import sys\nsys.stdout = sys.stderr = sys.stdin = None",
    "streams-closed": "import sys\nsys.stdout.close(); sys.stderr.close()",
    "all-descriptors-but-the-channel-closed": (
        "import os, stat\nfor fd in range(128):\n    try:\n"
        "        if not stat.S_ISSOCK(os.fstat(fd).st_mode): os.close(fd)\n    except OSError: pass"
    ),
    "descriptors-closed": "import os\nos.close(1); os.close(2); os.close(0)",
    "builtins-gone": "import builtins\nfor name in ('print', 'len', '__import__'): delattr(builtins, name)",
    "builtins-replaced": "import builtins\nbuiltins.len = builtins.isinstance = builtins.__import__ = None",
    "modules-gone": "import sys\nsys.modules.clear()",
    "module-replaced": "import sys\nsys.modules['json'] = sys.modules['os'] = None",
    "recursion-limit": "import sys\nsys.setrecursionlimit(50)",
    "import-path-gone": "import sys\nsys.meta_path.clear()",
    "tracing": "import sys\nsys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)",
    "signals-ignored": "import signal\nfor n in (2, 15, 17): signal.signal(n, signal.SIG_IGN)",
    "fork-comes-back": "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)",
    "daemon": "import subprocess\nsubprocess.Popen(['sleep', '100'], start_new_session=True)",
    "background-thread": "import threading as t\ndef f():\n    while 1: pass\nt.Thread(target=f, daemon=True).start()",
    "alarm": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 100)",
    "empty": "",
    "null-character": "x = 1\0",
    "lone-surrogate": "print('\\ud800')",
    "surrogate-in-code": "print('\ud800')",
    "magic-that-is-not-there": "%nothing",
    "debugger": "%pdb on\nbreakpoint()",
    "shell-command-that-fails": "!exit 3",
    "changed-folder": "import os\nos.chdir('/tmp')",
}  # fmt: skip


# Each of these dies like another that stays in the default run.
SLOW = "swallow-the-signal stop-itself block-the-signal abort kill-itself replace-itself busy-in-c".split()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in DEATHS]
)
def test_death_is_reported_and_followed_by_a_fresh_guest(sandbox, name):
    code, key = DEATHS[name]
    sandbox.run("before = 1")
    result = sandbox.run(f"print('last words')\n{code}", timeout=0.3 if key == "timeout" else None)
    assert result.status == "killed", result.text()
    assert result.reason.startswith(f"{key}:"), result.reason
    assert "last words" in result.stdout
    assert "NameError" in (sandbox.run("before").error or "")


@pytest.mark.parametrize("name", SURVIVED)
def test_variables_survive(sandbox, name):
    sandbox.run("kept = 41")
    result = sandbox.run(SURVIVED[name])
    assert result.status in ("ok", "error"), result.text()
    assert sandbox.run("kept + 1").result == "42"
    assert (
        sandbox.run("import math, json, os\nlen([1]) and json.dumps([os.sep, math.pi > 3])").result == "'[\"/\", true]'"
    )


def test_what_was_put_back_is_said(sandbox):
    result = sandbox.run("import builtins\nbuiltins.len = None")
    assert "builtins.len" in result.notices[0]


def test_timeout_keeps_the_state(sandbox):
    sandbox.run("x = 1")
    result = sandbox.run("x = 2\nprint('begun')\nwhile True: pass", timeout=0.3)
    assert (result.status, result.stdout) == ("timeout", "begun\n")
    assert "KeyboardInterrupt" in result.error
    assert 0.3 <= result.seconds < 1.2
    assert sandbox.run("x").result == "2"


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(60)",
        "import asyncio\nawait asyncio.sleep(60)",
        "import os\nos.system('sleep 60')",  # trap: the parent ignores SIGINT while its child runs
        pytest.param("import subprocess\nsubprocess.run(['sleep', '60'])", marks=pytest.mark.slow),
        "!sleep 60",
        "import re\nre.match('(a+)+b', 'a' * 60)",
        "import threading\nthreading.Event().wait()",
        pytest.param("import queue\nqueue.Queue().get()", marks=pytest.mark.slow),
    ],
)
def test_waiting_is_interrupted(sandbox, code):
    result = sandbox.run(code, timeout=0.15)
    assert result.status == "timeout", result.text()
    assert result.seconds < 1.4


def test_there_is_nobody_to_ask(sandbox):
    assert "without a keyboard" in sandbox.run("input('name? ')").error
    assert sandbox.run("import sys\nsys.stdin.read()").result == "''"


def test_the_next_cell_after_a_timeout_has_its_full_time(sandbox):
    assert sandbox.run("while True: pass", timeout=0.2).status == "timeout"
    assert sandbox.run("import time\ntime.sleep(0.3)\n1", timeout=5).result == "1"


def test_files_survive_a_death_and_variables_are_said_to_be_lost(sandbox):
    sandbox.put("upload.csv", b"1,2")
    sandbox.run("import os\nos.makedirs('/mnt/data/folder/b')\nopen('/mnt/data/folder/b/deep.txt', 'w').write('deep')")
    sandbox.run("open('/mnt/data/made.txt', 'w').write('made')")
    result = sandbox.run("import os; os._exit(1)")
    assert "variables are lost" in result.reason
    assert (sandbox.get("upload.csv"), sandbox.get("made.txt")) == (b"1,2", b"made")
    assert sandbox.get("folder/b/deep.txt") == b"deep"
    assert sandbox.run("import os\nsorted(os.listdir())").files == ()


def test_memory_of_one_process_is_watched(sandbox):
    result = sandbox.run("data = []\nwhile True: data.append(bytearray(b'x') * (16 << 20))")
    assert result.status in ("killed", "error")
    assert "memory:" in (result.reason or "") or "MemoryError" in result.error


def test_memory_of_many_processes_is_watched(sandbox):
    code = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        data = bytearray(b'x') * (120 << 20)
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""
    result = sandbox.run(code)
    assert result.status == "killed"
    assert result.reason.startswith("memory:")
    assert result.seconds < 8


def test_a_guest_without_address_space_is_replaced(fresh):
    """Every later cell would fail with a MemoryError."""
    code = """
import ctypes
call = ctypes.CDLL(None).mmap
call.restype = ctypes.c_long
call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for size in (64 << 20, 1 << 20):
    while call(0, size, 0, 0x22, -1, 0) != -1:
        pass
"""
    result = fresh.run(code)
    assert (result.status, result.reason.split(":")[0]) == ("killed", "memory"), result.text()
    assert fresh.run("6 * 7").result == "42"


def test_memory_in_sockets_is_watched(sandbox):
    """What waits in a socket is the kernel's memory: no limit of a process counts it, only their number is known."""
    code = """
import os, socket, time
for _ in range(8):
    if os.fork() == 0:
        held = [socket.socketpair() for _ in range(50)]
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""
    result = sandbox.run(code)
    assert result.status == "killed"
    assert result.reason.startswith("memory:")
    assert "sockets" in result.reason


def test_many_files_are_noticed(sandbox):
    code = "import os\nn = 0\nwhile True:\n    os.mkdir(f'/tmp/{n}'); n += 1"
    result = sandbox.run(code)
    assert result.status == "killed"
    assert result.reason.startswith("files:")


def test_a_fork_bomb_ends(sandbox):
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    result = sandbox.run(code, timeout=0.2)
    assert result.status in ("killed", "timeout")


@pytest.mark.slow
def test_processor_time_is_bounded():
    with opened(config=replace(SMALL, cpu_seconds=2)) as sandbox:
        result = sandbox.run("while True: pass", timeout=8)
        assert result.status == "killed"
        assert sandbox.run("6 * 7").result == "42"


def test_background_work_stands_still_between_cells(sandbox):
    sandbox.run(
        "import threading, time\nticks = [0]\n"
        "def count():\n    while True:\n        ticks[0] += 1\n        time.sleep(0.001)\n"
        "threading.Thread(target=count, daemon=True).start()"
    )
    before = int(sandbox.run("ticks[0]").result)
    time.sleep(0.4)
    assert int(sandbox.run("ticks[0]").result) - before < 100


def test_a_process_that_forks_and_ends_without_pause_stands_still_too(sandbox):
    """Trap: it can be gone whenever it is looked at, and so be missed."""
    code = """
import os, time
if os.fork() == 0:
    n = 0
    while True:
        n += 1
        os.pwrite(fd, str(n).encode(), 0)
        if os.fork():
            os._exit(0)
time.sleep(0.1)
"""
    sandbox.run("import os\nfd = os.open('hops', os.O_RDWR | os.O_CREAT)")
    if sandbox.run(code).status == "killed":
        return  # it could not be stopped, and was not left alone
    before = sandbox.get("hops")
    time.sleep(0.1)
    assert sandbox.get("hops") == before != b""
    sandbox.restart()


def test_a_guest_that_cannot_be_stopped_is_killed(sandbox, monkeypatch):
    monkeypatch.setattr("chatglm.sandbox.processes.stop_all", lambda root: False)
    result = sandbox.run("1")
    assert (result.status, result.reason.split(":")[0]) == ("killed", "processes")
    monkeypatch.undo()
    assert sandbox.run("6 * 7").result == "42"


@pytest.mark.slow
def test_a_stack_overflow_in_c_is_an_error_or_a_death(sandbox):
    result = sandbox.run(
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(3 * 10**6): x = [x]\n"
        "import pickle; pickle.dumps(x)"
    )
    assert result.status in ("killed", "error"), result.text()
