"""What holds for every test: no network, and none of the settings of whoever runs it."""

import os
import signal
import socket
import subprocess
import sys
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


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """Stands where `sys.executable` stands in a command whose program needs torch: saves importing that (Linux)."""
    if sys.platform != "linux":
        yield [sys.executable]
        return
    here, path = Path(__file__).parent, str(tmp_path_factory.mktemp("warm") / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, here / "warm_server.py", str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal of the tests is not for it
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # forks need a process without threads
        )
    yield [sys.executable, "-I", "-S", str(here / "warm_client.py"), path]
    server.stdin.close()
    server.wait(30)
