"""What holds for every test: no network, and none of the settings of whoever runs it."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no reason for a law to fail, and what passes once passes again: examples are the same in every run.
# `--hypothesis-profile random` looks for others.
settings.register_profile("random", deadline=None)
settings.register_profile("any machine", deadline=None, derandomize=True)
settings.load_profile("any machine")

# Settings of this program and of what it uses that would make a test depend on the machine.
SETTINGS = ("CHATGLM_HUB", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "NO_COLOR", "PYTHONWARNINGS")
for name in SETTINGS:
    os.environ.pop(name, None)

# Of many workers on one machine none may use more than one processor, or all wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has its background jobs ignore Ctrl-C, and they hand that on; tests and the programs they start must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = ("web", "serve", "sandbox", "train")
SHARED = "CHATGLM_TESTS_SHARED"

LOCAL = ("localhost", "127.", "::1", "0.0.0.0")
_look_up, _connect = socket.getaddrinfo, socket.socket.connect


def _is_local(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    return text is None or (isinstance(text, str) and text.startswith(LOCAL)) or text == socket.gethostname()


def _look_up_local(host, *arguments, **options):
    if not _is_local(host):
        raise socket.gaierror(socket.EAI_NONAME, f"the tests run without network; {host!r} was looked up")
    return _look_up(host, *arguments, **options)


def _connect_local(self, address):
    if isinstance(address, tuple) and not _is_local(address[0]):
        raise OSError(f"the tests run without network; a connection to {address[0]!r} was tried")
    return _connect(self, address)


@pytest.fixture(autouse=True)
def without_network(monkeypatch):
    """Lookups and connections to anywhere else fail, on a machine with network as on one without."""
    monkeypatch.setattr(socket, "getaddrinfo", _look_up_local)
    monkeypatch.setattr(socket.socket, "connect", _connect_local)


def pytest_configure(config):
    """What all workers share is in a folder of the process that starts them, and goes with it."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="chatglm-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder))
        os.environ[SHARED] = folder
        os.mkfifo(os.path.join(folder, "life"))
        # For reading too: nobody has to read it yet. What is started for all ends when this is closed.
        life = os.open(os.path.join(folder, "life"), os.O_RDWR)
        config.add_cleanup(lambda: os.close(life))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Of `-n logical`. One more than processors: many tests wait for a program that works, or for its end."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here + 1, 5)


def pytest_collection_modifyitems(items):
    """What takes longest comes first, or one worker would be left with it when the others are done."""
    items.sort(key=lambda item: LONG.index(room) if (room := item.path.parent.name) in LONG else len(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All tests of a file go to one worker, for they share what they prepare; those of a page share an app."""
    if config.getoption("dist") != "load":  # somebody has asked for another way
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the order is that above: many tests are not long ones

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "tests/web" if file.startswith("tests/web/") else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def python():
    """Stands where `sys.executable` stands in a command whose program needs torch: saves importing that (Linux)."""
    if sys.platform != "linux":
        return [sys.executable]
    here, folder = Path(__file__).parent, os.environ[SHARED]
    path, life = os.path.join(folder, "socket"), os.path.join(folder, "life")
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first who needs it starts it for all
        if not os.path.exists(path):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, open(life) as stdin:
                listener.bind(path)
                listener.listen(50)
                server = subprocess.Popen(
                    [sys.executable, here / "warm_server.py", str(listener.fileno())],
                    stdin=stdin,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,  # Ctrl-C in the terminal of the tests is not for it
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # forks need a process without threads
                )
                server.returncode = 0  # nobody waits for it: it ends when all tests are over
    return [sys.executable, "-I", "-S", str(here / "warm_client.py"), path]
