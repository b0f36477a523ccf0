"""How long the code interpreter takes and how much memory it holds.

    python benchmarks/sandbox.py [--repeats 10] [--tier auto]

Prints, beside the goals: the first cell of a new guest, with libraries cold, warmed up and from the warm pool, later
cells, idle memory (shared pages divided among those who share them), closing, and what happens at the wall limit.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from chatglm.sandbox import Sandbox, SandboxPool, open_sandbox, processes

PANDAS = "import pandas as pd\npd.DataFrame({'a': [1, 2]}).sum()"
PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])"


def seconds(action: Callable[[], Any]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def show(what: str, values: list[float], goal: str = "", unit: str = "ms", scale: float = 1000) -> None:
    """One row: the median and the worst."""
    print(f"{what:44} {statistics.median(values) * scale:9.1f} {max(values) * scale:9.1f} {unit:4} {goal}")


def memory(sandbox: Sandbox) -> float:
    """Bytes the guest's processes hold."""
    root = sandbox._guest.root
    return float(sum(processes.proportional(process.pid) or process.resident for process in processes.below(root)))


def cold(tier: str, repeats: int) -> None:
    """New guests, one after another."""
    first, idle, close = [], [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        sandbox = open_sandbox(tier)
        sandbox.run("1 + 1")
        first.append(time.perf_counter() - begin)
        idle.append(memory(sandbox))
        close.append(seconds(sandbox.close))
    show("first cell, cold", first, "goal < 600")
    show("idle memory", idle, "goal < 40", "MiB", 1 / (1 << 20))
    show("close", close)


def later(tier: str, repeats: int) -> None:
    """Cells of one guest."""
    with open_sandbox(tier) as sandbox:
        sandbox.run("x = 1")
        show("later cell", [seconds(lambda: sandbox.run("x += 1\nx")) for _ in range(repeats * 10)], "goal < 10")
        show("print of 1 MB", [seconds(lambda: sandbox.run("print('x' * 1_000_000)")) for _ in range(repeats)])
        show("pandas, numpy, matplotlib imported", [seconds(lambda: sandbox.run(PANDAS + "\n" + PLOT))])
        show("plot to PNG", [seconds(lambda: sandbox.run(PLOT)) for _ in range(repeats)])
        show("memory with these", [memory(sandbox)], "", "MiB", 1 / (1 << 20))
        show("endless loop, limit 1000 ms", [seconds(lambda: sandbox.run("while True: pass", timeout=1))])
        ignoring = "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass"
        show("the same, ignoring the interrupt", [seconds(lambda: sandbox.run(ignoring, timeout=1))])


def warm(tier: str, repeats: int) -> None:
    """Guests from the pool, each taken when the pool is full."""
    first = []
    with SandboxPool(2, tier=tier) as pool:
        for _ in range(repeats):
            while pool._ready.qsize() < 2:
                time.sleep(0.05)
            time.sleep(0.3)
            begin = time.perf_counter()
            sandbox = pool.take()
            sandbox.run(PANDAS)
            first.append(time.perf_counter() - begin)
            sandbox.close()
    show("first pandas cell, from the warm pool", first, "goal < 50")


def own(tier: str, repeats: int) -> None:
    """What `chatglm chat --code` and `Session(sandbox="auto")` do: the first cell comes when a model has answered."""
    cold_pandas, opening, first = [], [], []
    for _ in range(repeats):
        with open_sandbox(tier) as sandbox:
            cold_pandas.append(seconds(lambda: sandbox.run(PANDAS + "\n" + PLOT)))
        begin = time.perf_counter()
        with open_sandbox(tier) as sandbox:
            warming = sandbox.warm_up()
            opening.append(time.perf_counter() - begin)
            warming.join()
            first.append(seconds(lambda: sandbox.run(PANDAS + "\n" + PLOT)))
    show("opening, warming up begun", opening)
    show("first pandas cell with a plot, not warmed up", cold_pandas)
    show("first pandas cell with a plot, warmed up", first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--tier", default="auto")
    options = parser.parse_args()
    with open_sandbox(options.tier) as sandbox:
        machine = f"Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
        print(f"tier {sandbox.tier}, {machine}, load {os.getloadavg()[0]:.1f}")
    print(f"{'':44} {'median':>9} {'worst':>9}")
    for part in (cold, own, later, warm):
        part(options.tier, options.repeats)


if __name__ == "__main__":
    main()
