"""What the host holds: nothing is left behind, whoever dies, and no trap of the design is open."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SMALL, opened, require, wait_until

from chatglm.errors import SandboxError
from chatglm.sandbox import SandboxConfig, idle, open_sandbox, processes, spawn
from chatglm.sandbox.reach import unreachable

PARENT = """
import json, sys, threading, time
from chatglm.sandbox import open_sandbox, processes
sandbox = open_sandbox({tier!r})
sandbox.run("import subprocess, os\\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)")
sandbox.run("if os.fork() == 0:\\n    os.setsid(); import time; time.sleep(1000)")
running = {running}
if running:
    threading.Thread(target=sandbox.run, args=("while True: pass",), daemon=True).start()
    time.sleep(0.3)
guest = sandbox._guest
pids = [guest.process.pid, guest.root] + [process.pid for process in processes.below(guest.root)]
print(json.dumps([pids, getattr(guest, "_folder", "")]), flush=True)
time.sleep(1000)
"""


def alive(pid):
    return processes.read(pid).state not in "ZX"


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("tier", "number", "running"),
    [
        pytest.param("auto", signal.SIGKILL, False, marks=pytest.mark.slow),
        ("auto", signal.SIGKILL, True),
        pytest.param("auto", signal.SIGTERM, False, marks=pytest.mark.slow),
        ("landlock", signal.SIGKILL, True),
    ],
)
def test_nothing_survives_the_host(tier, number, running):
    require(tier)
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(tier=tier, running=running)], stdout=subprocess.PIPE)
    with parent:
        pids, folder = json.loads(parent.stdout.readline())
        assert len(pids) >= 4
        assert all(map(alive, pids))
        parent.send_signal(number)
    assert wait_until(lambda: not any(map(alive, pids))), [pid for pid in pids if alive(pid)]
    assert wait_until(lambda: not folder or not Path(folder).exists())


def snapshot():
    folders = [name for name in os.listdir("/tmp") if name.startswith(f"chatglm-sandbox-{os.getpid()}-")]
    return len(descriptors()), len(processes.below(os.getpid())), Path("/proc/self/mountinfo").read_text(), folders


@pytest.mark.parametrize(
    ("tier", "count"),
    [("auto", 2), *(pytest.param(tier, 100, marks=pytest.mark.slow) for tier in ("auto", "landlock"))],
)
def test_guests_leave_nothing_behind(tier, count):
    require(tier)  # the thread that starts guests, and what is made once
    before = snapshot()
    for number in range(count):
        with opened(tier, SMALL) as sandbox:
            sandbox.put("a", b"1")
            sandbox.run(
                "import subprocess; subprocess.Popen(['sleep', '100'])" if number % 2 else "import os; os._exit(1)"
            )
    assert snapshot() == before


def test_a_failed_start_leaves_nothing_behind():
    require()
    before = snapshot()
    with pytest.raises(SandboxError, match="no_such_module"):
        open_sandbox(config=replace(SMALL, preload=("no_such_module",)))
    assert snapshot() == before


def test_a_guest_outlives_the_thread_that_opened_it():
    """Trap: the parent-death signal fires when the thread that started the child ends."""
    found = []
    thread = threading.Thread(target=lambda: found.append(opened(config=SMALL)))
    thread.start()
    thread.join()
    with found[0] as sandbox:
        assert sandbox.run("6 * 7").result == "42"
        assert sandbox._number == 1
        assert sandbox._guest.process.poll() is None


def test_no_process_of_a_guest_is_root(sandbox):
    """Trap: bubblewrap started by root stays root for the kernel, whatever the guest sees."""
    uids = {os.stat(f"/proc/{process.pid}").st_uid for process in processes.below(sandbox._guest.root)}
    uids.add(os.stat(f"/proc/{sandbox._guest.root}").st_uid)
    assert uids
    assert 0 not in uids
    if os.geteuid() == 0:
        with opened(config=SMALL) as other:
            assert os.stat(f"/proc/{other._guest.root}").st_uid not in uids


def test_the_command_line_tells_nothing(sandbox):
    for pid in (sandbox._guest.process.pid, *(process.pid for process in processes.below(sandbox._guest.process.pid))):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"--ro-bind" not in words
        assert b"RLIMIT" not in words


def test_user_ids_for_guests():
    assert spawn._mapped("0 100000 65536\n") == [(0, 65536)]
    assert 65536 - 500 <= spawn._unused([(0, 65536)]) < 65536
    assert spawn._unused([(0, 1), (1, 1 << 32)]) >= 1_900_000_000
    with pytest.raises(SandboxError, match="2000"):
        spawn._unused([(0, 1000)])
    with pytest.raises(SandboxError, match="never be root"):
        SandboxConfig(run_as=0)


def test_closed_folders_are_found(tmp_path):
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    found = dict(reversed(pair) for pair in unreachable([str(inner), "/usr/bin"]))
    assert str(inner) in found
    assert "/usr/bin" not in found


def test_interrupt_from_another_thread(sandbox):
    sandbox.run("x = 1")
    timer = threading.Timer(0.3, sandbox.interrupt)
    timer.start()
    result = sandbox.run("x = 2\nwhile True: pass")
    assert (result.status, result.reason.split(":")[0]) == ("error", "interrupted")
    assert sandbox.run("x").result == "2"
    sandbox.interrupt()  # nothing runs: nothing happens
    assert sandbox.run("x").result == "2"


def test_close_while_a_cell_runs(fresh):
    guest = fresh._guest
    timer = threading.Timer(0.3, fresh.close)
    timer.start()
    result = fresh.run("while True: pass")
    timer.join()
    assert (result.status, result.reason.split(":")[0]) == ("killed", "closed")
    with pytest.raises(SandboxError, match="closed"):
        fresh.run("1")
    fresh.close()
    guest.kill()  # its descriptors may be somebody else's by now


def test_ctrl_c_in_the_host_stops_the_cell_and_keeps_the_variables(sandbox):
    sandbox.run("x = 41")
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("x = 42\nwhile True: pass")
    assert sandbox.run("x").result == "42"


def test_a_second_ctrl_c_leaves_nothing_running(sandbox):
    sandbox.run("x = 41")
    timers = [threading.Timer(after, signal.raise_signal, [signal.SIGINT]) for after in (0.2, 0.4)]
    for timer in timers:
        timer.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass")
    assert sandbox._guest is None
    result = sandbox.run("6 * 7")
    assert result.result == "42"
    assert "variables are lost" in result.notices[0]


def test_guests_of_a_host_with_special_priority_have_none():
    """Otherwise a loop in a guest would stop a real-time host, and its watchdog with it."""
    require()
    thread = spawn._spawner(os.getpid())
    thread.submit(os.sched_setscheduler, 0, os.SCHED_BATCH, os.sched_param(0)).result()
    try:
        with opened(config=SMALL) as sandbox:
            assert sandbox.run("import os; os.sched_getscheduler(0) == os.SCHED_OTHER").result == "True"
    finally:
        thread.submit(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0)).result()


def test_processes_are_found_where_the_kernel_does_not_list_children(monkeypatch, sandbox):
    """Otherwise nothing would be watched, stopped or interrupted there, without a word."""
    sandbox.run("import subprocess\nchild = subprocess.Popen(['sleep', '60'])")
    root = sandbox._guest.root
    known = {process.pid for process in processes.below(root)}
    assert len(known) >= 2
    monkeypatch.setattr(processes, "_lists_children", lambda: False)
    assert {process.pid for process in processes.below(root)} == known


def test_restart_forgets_variables_and_keeps_files(sandbox):
    sandbox.put("a", b"1")
    sandbox.run("x = 1")
    sandbox.restart()
    assert "NameError" in sandbox.run("x").error
    assert sandbox.get("a") == b"1"


def test_a_guest_killed_from_outside_is_replaced(sandbox):
    sandbox.run("x = 1")
    os.kill(sandbox._guest.root, signal.SIGKILL)
    sandbox._guest.process.wait()
    result = sandbox.run("6 * 7")
    assert result.result == "42"
    assert "variables are lost" in result.notices[0]


def test_idle_guests_end():
    with opened(config=replace(SMALL, idle_seconds=0.2)) as sandbox:
        sandbox.put("a", b"1")
        sandbox.run("x = 1")
        assert sandbox._guest is not None
        assert wait_until(lambda: (idle.look(), sandbox._guest is None)[1])
        result = sandbox.run("open('a').read()")
        assert result.result == "'1'"
        assert "idle" in result.notices[0]


def test_two_guests_do_not_see_each_other(sandbox):
    one = sandbox
    with opened(config=SMALL) as two:
        one.put("mine", b"1")
        one.run(
            "open('/tmp/mine', 'w').write('1'); open('/dev/shm/mine', 'w').write('1')\n"
            "import socket\ns = socket.socket(socket.AF_UNIX); s.bind('\\0mine'); s.listen()"
        )
        assert two.list() == []
        seen = two.run("import os\nfor name in ('/tmp', '/dev/shm', '/mnt/data'): print(os.listdir(name))")
        assert "mine" not in seen.stdout
        assert "Error" in two.run("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0mine')").error
        assert one.run("open('mine').read()").result == "'1'"


def test_many_threads_may_use_one_sandbox(sandbox):
    sandbox.run("total = 0")
    threads = [threading.Thread(target=lambda: sandbox.run("total += 1")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sandbox.run("total").result == "8"


def test_a_forked_copy_of_the_host_leaves_the_guest_alone(sandbox):
    sandbox.run("x = 42")
    pid = os.fork()
    if pid == 0:
        try:
            sandbox.close()
            try:
                sandbox.run("1")
            except SandboxError:
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert sandbox.run("x").result == "42"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_odd_timeouts_are_errors(sandbox, timeout):
    with pytest.raises(SandboxError, match="timeout"):
        sandbox.run("1", timeout)


@pytest.mark.parametrize("code", [None, 1, b"1", "x" * 1_000_001])
def test_what_is_no_code_is_refused(sandbox, code):
    result = sandbox.run(code)
    assert result.status == "refused"
    assert result.reason.startswith("refused: the code")
