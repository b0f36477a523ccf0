"""What starting costs: imports, help, one answer of the embedded model from the shell, and a server until it is ready.

    python benchmarks/startup.py [RUNS]

Each line is the median of RUNS fresh processes (default 5), taken in turn so that a busy machine is busy for all of
them: seconds of processor time (user and system, which a neighbour changes less), seconds by the clock, and the ratio
of the processor times to `import torch`, below which nothing can get. Compile the sources first, as an installation
does: python -m compileall -q src
"""

import argparse
import os
import platform
import pty
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

PYTHON = sys.executable
CHATGLM = [PYTHON, "-m", "chatglm"]
ANSWER = [*CHATGLM, "chat", "你好", "--greedy"]
Cost = tuple[float, float]  # processor seconds, seconds by the clock


def used(process: "subprocess.Popen[bytes]", began: float) -> Cost:
    """What a process has cost, once it has ended; the system counts children that were waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def command(*words: str) -> Cost:
    """One process from start to end."""
    began = time.perf_counter()
    cost = used(subprocess.Popen(words, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL), began)
    return cost


def server() -> Cost:
    """`chatglm serve` until it says that it is healthy: its processor time until then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*CHATGLM, "serve", "--port", str(port)]
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not _healthy(port):
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(words)} has ended with exit status {process.returncode}")
        time.sleep(0.02)
    ready = time.perf_counter() - began
    used_so_far = processor_seconds(process.pid)
    process.terminate()
    process.wait()
    return used_so_far, ready


def processor_seconds(pid: int) -> float:
    """What a process has used up to now, in steps of 10 ms."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _healthy(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def first_sign() -> Cost:
    """One answer, until it has written anything to a terminal."""
    ours, theirs = pty.openpty()
    began = time.perf_counter()
    process = subprocess.Popen(ANSWER, stdin=theirs, stdout=theirs, stderr=theirs)
    select.select([ours], [], [])
    cost = processor_seconds(process.pid), time.perf_counter() - began
    process.kill()
    process.wait()
    os.close(ours)
    os.close(theirs)
    return cost


CASES: dict[str, Callable[[], Cost]] = {
    "python -c pass": lambda: command(PYTHON, "-c", "pass"),
    "import torch": lambda: command(PYTHON, "-c", "import torch"),
    "import torch, transformers": lambda: command(PYTHON, "-c", "import torch, transformers"),
    "import AutoModel, AutoTokenizer": lambda: command(
        PYTHON, "-c", "from transformers import AutoModel, AutoTokenizer"
    ),
    "import chatglm": lambda: command(PYTHON, "-c", "import chatglm"),
    "chatglm --help": lambda: command(*CHATGLM, "--help"),
    'chatglm chat "你好" --greedy': lambda: command(*ANSWER),
    "the same, first sign on a terminal": first_sign,
    "chatglm.load() in Python": lambda: command(PYTHON, "-c", "import chatglm; chatglm.load()"),
    "chatglm serve, until ready": server,
}


def hardware() -> str:
    """One line: processor, cores, how busy it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    model = names[0] if names else platform.machine()
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="what starting costs")
    parser.add_argument("runs", type=int, nargs="?", default=5)
    runs = parser.parse_args().runs
    print(hardware())
    costs: dict[str, list[Cost]] = {name: [] for name in CASES}
    for _ in range(runs):
        for name, run in CASES.items():
            costs[name].append(run())
    processor = {name: statistics.median(cpu for cpu, _ in found) for name, found in costs.items()}
    print(f"{'':<36}{'processor s':>12}{'clock s':>10}{'x torch':>10}")
    for name, found in costs.items():
        clock, ratio = statistics.median(wall for _, wall in found), processor[name] / processor["import torch"]
        print(f"{name:<36}{processor[name]:>12.2f}{clock:>10.2f}{ratio:>10.2f}")


if __name__ == "__main__":
    main()
