"""Files across the border: nothing is followed, nothing is believed."""

import os
import socket
import stat

import pytest
from conftest import SMALL

from chatglm.chat.message import FILES_FOLDER
from chatglm.errors import SandboxError
from chatglm.sandbox import config
from chatglm.sandbox.files import FolderFiles
from chatglm.sandbox.names import acceptable, check_name

HOSTILE_NAMES = [
    "", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "-rf", "~root", "a\0b", "a\nb", "a\x1b[2Jb",
    "\u202egnp.exe", "x\ufeff",
    "<img src=x>", "a'b", 'a"b', "a&b", "a|b", "`id`", "$(id)", "a;b", "C:x", "a*", " a", "a ", "\ud800",
    "a" * 201, "\u6587" * 70,
    "/mnt/data/../x", "/mnt/data//x", "\u200bx",
]  # fmt: skip
GOOD_NAMES = [
    "a",
    "a.csv",
    "\u6570\u636e.xlsx",
    "a b.txt",
    ".hidden",
    "caf\u00e9.txt",
    "a" * 200,
    "\U0001f600.png",
    "a-b_c+d=e,f@g#h%i.txt",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_refused(sandbox, name):
    with pytest.raises(SandboxError, match="refused"):
        sandbox.put(name, b"x")


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_ordinary_names_are_kept(sandbox, name):
    sandbox.put(name, name.encode())
    assert sandbox.get(name) == sandbox.get(f"/mnt/data/{name}") == name.encode()
    result = sandbox.run(f"import os\nprint(open({name!r}).read() == {name!r})\nos.unlink({name!r})")
    assert result.stdout == "True\n", result.text()


@pytest.mark.parametrize("name", [None, 1, b"a", ["a"]])
def test_names_are_texts(name):
    with pytest.raises(SandboxError, match="must be a text"):
        check_name(name)


def test_files_in_folders_are_listed_and_fetched(sandbox):
    result = sandbox.run("import os\nos.makedirs('plots/deep')\nopen('plots/deep/a.txt', 'w').write('abc')")
    assert [file.name for file in result.files] == ["plots/deep/a.txt"]
    assert sandbox.get("plots/deep/a.txt") == b"abc"
    assert "plots/deep/a.txt" in [file.name for file in sandbox.list()]
    sandbox.put("plots/new/b.txt", b"b", folders=True)
    assert sandbox.run("open('plots/new/b.txt').read()").result == "'b'"
    for name in ("plots/../../x", "/etc/x", "plots//x"):
        with pytest.raises(SandboxError, match="refused"):
            sandbox.put(name, b"", folders=True)
    sandbox.run("import shutil\nshutil.rmtree('plots')")


@pytest.mark.parametrize(
    "make",
    [
        "os.symlink('/etc/hostname', 'trap')",
        "os.symlink('/proc/1/mem', 'trap')",
        "os.mkfifo('trap')",
        "os.mkdir('trap')",
        "socket.socket(socket.AF_UNIX).bind('trap')",
        "open('trap', 'w').truncate(5 << 20)",  # a zip bomb's first step: large, and made of nothing
    ],
)
def test_only_regular_files_of_a_bounded_size_are_fetched(sandbox, make):
    result = sandbox.run(f"import os, socket, shutil\n{make}")
    assert result.status == "ok", result.text()
    with pytest.raises(SandboxError, match="trap"):
        sandbox.get("trap")
    assert "trap" not in [file.name for file in result.files] or "truncate" in make
    sandbox.run("os.rmdir('trap') if os.path.isdir('trap') and not os.path.islink('trap') else os.unlink('trap')")


@pytest.mark.parametrize("name", ["door/hostname", "door/../../etc/hostname", "../../etc/hostname", "inner/door2/x"])
def test_folders_lead_nowhere_else(sandbox, name):
    sandbox.run(
        "import os\nos.symlink('/etc', 'door')\nos.makedirs('inner', exist_ok=True)\nos.symlink('..', 'inner/door2')"
    )
    sandbox.run("open('x', 'w').write('x')")
    with pytest.raises(SandboxError):
        sandbox.get(name)
    assert not [file for file in sandbox.list() if "door" in file.name]
    sandbox.run("import shutil\nos.unlink('door')\nshutil.rmtree('inner')\nos.unlink('x')")


def test_an_upload_replaces_a_link_and_never_writes_through_it(sandbox):
    sandbox.run("import os\nopen('/tmp/target', 'w').write('old')\nos.symlink('/tmp/target', 'data.csv')")
    sandbox.put("data.csv", b"new")
    result = sandbox.run("print(open('/tmp/target').read(), open('data.csv').read(), os.path.islink('data.csv'))")
    assert result.stdout == "old new False\n"


def test_an_upload_over_a_folder_is_an_error(sandbox):
    sandbox.run("import os\nos.mkdir('taken')")
    with pytest.raises(SandboxError, match="taken"):
        sandbox.put("taken", b"x")
    sandbox.run("os.rmdir('taken')")


def test_hard_links_reach_nothing_of_the_host(sandbox):
    result = sandbox.run(
        "import os\ntry:\n    os.link('/usr/bin/env', 'env')\nexcept OSError as e:\n    print('held', e.errno)"
    )
    assert "held" in result.stdout


def test_one_unreadable_file_hides_no_other(sandbox):
    result = sandbox.run("import os\nopen('closed', 'w').close()\nos.chmod('closed', 0)\nopen('open', 'w').close()")
    assert [file.name for file in result.files] == ["closed", "open"]
    assert any("closed" in notice for notice in result.notices)
    sandbox.run("os.unlink('closed')\nos.unlink('open')")


def test_sizes_are_bounded(sandbox):
    with pytest.raises(SandboxError, match="at most"):
        sandbox.put("big", b"x" * (SMALL.transfer_size + 1))
    with pytest.raises(SandboxError, match="bytes"):
        sandbox.put("text", "no bytes")


def test_a_full_disk_is_an_error_and_leaves_the_sandbox_working(sandbox):
    sandbox.run("for n in range(2):\n    open(f'fill{n}', 'wb').write(bytes((8 << 20) - 4096 * n))")
    with pytest.raises(SandboxError, match="No space"):
        sandbox.put("more", b"x" * (1 << 20))
    sandbox.run("import os\nfor name in ('fill0', 'fill1', 'more'):\n    os.path.exists(name) and os.unlink(name)")


def test_thousands_of_files_are_listed_up_to_a_bound_and_said_so(sandbox):
    result = sandbox.run("for n in range(1500):\n    open(f'many{n}', 'w').close()")
    assert len(result.files) <= 1000
    assert any("not listed" in notice for notice in result.notices)
    sandbox.run("import glob, os\nfor name in glob.glob('many*'):\n    os.unlink(name)")


def test_names_made_by_the_guest_are_checked_too(sandbox):
    result = sandbox.run("for name in ('a\\nb', '<script>', '-x', 'good.txt'):\n    open(name, 'w').write('x')")
    assert [file.name for file in result.files] == ["good.txt"]
    assert any("not listed" in notice for notice in result.notices)
    sandbox.run("import os\nfor name in ('a\\nb', '<script>', '-x', 'good.txt'):\n    os.unlink(name)")


def test_swapping_while_the_host_reads_is_impossible_because_nothing_runs(sandbox):
    code = """
import os, threading, time
open('real', 'w').write('mine'); counter = [0]
def swap():
    while not os.path.exists('/tmp/stop'):
        try:
            os.symlink('/etc/hostname', 'new'); os.rename('new', 'real')
            open('new', 'w').write('mine'); os.rename('new', 'real')
        except OSError:
            pass
        counter[0] += 1
threading.Thread(target=swap, daemon=True).start()
"""
    sandbox.run(code)
    before = sandbox.run("counter[0]").result
    contents = set()
    for _ in range(50):
        try:
            contents.add(sandbox.get("real"))
        except SandboxError:
            contents.add(b"refused")
    assert contents <= {b"mine", b"", b"refused"}
    assert len(contents) == 1, "the file changed while no cell ran"
    assert int(sandbox.run("import time; time.sleep(0.01); counter[0]").result) > int(before)
    sandbox.run("open('/tmp/stop', 'w').close(); time.sleep(0.05)")


def test_modules_of_the_work_folder_do_not_shadow_the_library(fresh):
    """Trap: with the work folder first on sys.path an uploaded numpy.py would stand in for the real one."""
    fresh.put("json.py", b"raise SystemExit('shadowed')")
    fresh.put("csv.py", b"raise SystemExit('shadowed')")
    fresh.put("helper.py", b"value = 42")
    result = fresh.run("import csv, json, helper\nprint(csv.__file__ != '/mnt/data/csv.py', helper.value)")
    assert result.stdout == "True 42\n", result.text()


class TestFolderFiles:
    """The same laws on an ordinary folder, without a guest."""

    @pytest.fixture
    def files(self, tmp_path):
        (tmp_path / "box").mkdir()
        (tmp_path / "secret").write_text("secret")
        files = FolderFiles(os.open(tmp_path / "box", os.O_RDONLY | os.O_DIRECTORY), None, 1000)
        yield files
        files.close()

    def test_put_get_list(self, files, tmp_path):
        files.put("a", b"1")
        files.put("a", b"22")
        assert files.get("a") == b"22"
        listed, left_out = files.list()
        assert [(file.name, file.size) for file in listed] == [("a", 2)]
        assert left_out == 0
        assert stat.S_IMODE((tmp_path / "box" / "a").stat().st_mode) == 0o600

    @pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "link", "folder/../../secret", "folder/up/secret"])
    def test_nothing_outside_is_opened(self, files, tmp_path, path):
        (tmp_path / "box" / "link").symlink_to("../secret")
        (tmp_path / "box" / "folder").mkdir()
        (tmp_path / "box" / "folder" / "up").symlink_to("../..")
        with pytest.raises(OSError, match=r"."):
            files.get(path)
        with pytest.raises(OSError, match=r"."):
            files.put("folder/up/new", b"x")
        assert not (tmp_path / "new").exists()

    def test_special_files_do_not_hold_the_host_up(self, files, tmp_path):
        os.mkfifo(tmp_path / "box" / "fifo")
        listener = socket.socket(socket.AF_UNIX)
        os.chdir(tmp_path)  # socket paths are short
        listener.bind("box/socket")
        listener.close()
        for name in ("fifo", "socket"):
            with pytest.raises((SandboxError, OSError)):
                files.get(name)
        assert files.list() == ([], 2)

    def test_deep_folders_end(self, files, tmp_path):
        (tmp_path / "box" / "/".join("d" * 30).replace("d", "d")).mkdir(parents=True)
        assert files.list()[0] == []


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names_are_acceptable_in_folders_too(name):
    assert acceptable(f"folder/{name}")


def test_models_are_told_of_the_folder_that_guests_have():
    """Two names, because neither room may import the other."""
    assert config.WORK == FILES_FOLDER
