"""How long the start takes: `import chatglm`, `chatglm --help`, and the first answer of the embedded model.

    python benchmarks/startup.py [RUNS]

Each line is the best and the median of RUNS fresh processes (default 7; the slow first answer: 3).
"""

import os
import platform
import statistics
import subprocess
import sys
import time


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(name: str, command: list[str], runs: int, goal: str = "") -> None:
    """Print one line of the table."""
    times = [seconds(command) for _ in range(runs)]
    print(f"{name:<34} best {min(times):6.3f} s   median {statistics.median(times):6.3f} s   {goal}")


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}")
    python = [sys.executable]
    measure("python -c pass", [*python, "-c", "pass"], runs)
    measure("import chatglm", [*python, "-c", "import chatglm"], runs, "goal 0.15 s")
    measure("chatglm --help", [*python, "-m", "chatglm", "--help"], runs, "goal 0.40 s")
    measure("import chatglm.terminal.start", [*python, "-c", "import chatglm.terminal.start"], runs)
    measure("import chatglm and AutoModel", [*python, "-c", "import chatglm; from transformers import AutoModel"], 3)
    measure("chatglm chat PROMPT (embedded)", [*python, "-m", "chatglm", "chat", "你好", "--greedy"], 3)


if __name__ == "__main__":
    main()
