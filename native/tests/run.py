"""Builds and runs the library's own tests: `python native/tests/run.py [address|thread|none]`.

By default under the address and undefined-behaviour sanitizers, for every instruction set this processor has. Exits 1
on a finding; where there is no compiler or no sanitizer it says so and exits 0. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import build  # noqa: E402

SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1"],
    "thread": ["-fsanitize=thread", "-g1"],
    "none": ["-O1"],
}
# Sanitized code is slow to optimise: without, all of it is compiled in a quarter of the time.
COMMON = ["-std=c++17", "-O0", "-fvisibility=hidden", "-fno-math-errno", "-pthread"]


def runs_only_evex() -> bool:
    """Whether this processor has the VNNI instruction of 256 bits in the encoding of AVX-512 alone."""
    info = Path("/proc/cpuinfo")
    seen = info.read_text(errors="replace").split() if info.exists() else []
    return "avx512_vnni" in seen and "avx_vnni" not in seen


def make(program: Path, compiler: list[str], machine: str, sanitizer: list[str]) -> None:
    """Compile the tests and the library into one program.

    Raises:
        BuildError: with what the compiler said.
    """
    files = build.flags_by_file(compiler, machine, evex=runs_only_evex())
    sources = {build.SOURCE / f"{name}.cpp": own for name, own in files.items()}
    sources[HERE / "kernels_test.cpp"] = []
    objects = [program.with_name(f"{source.stem}.o") for source in sources]

    def compile_one(source: Path, own: list[str], target: Path) -> None:
        build._run([*compiler, *own, *COMMON, *sanitizer, "-c", str(source), "-o", str(target)])

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, sources.values(), objects))
    static = ["-static"] if machine != platform.machine() else []  # an emulator need not find this system's libraries
    build._run([*compiler, *sanitizer, *static, "-pthread", *map(str, objects), "-o", str(program)])


def can_link(folder: Path, compiler: list[str], sanitizer: list[str]) -> str:
    """Why a program with this sanitizer cannot be made or run here; empty where it can."""
    source = folder / "empty.cpp"
    source.write_text("int main() { return 0; }\n")
    try:
        build._run([*compiler, *sanitizer, str(source), "-o", str(folder / "empty")])
        build._run([str(folder / "empty")])
    except (build.BuildError, OSError) as error:
        return str(error)
    return ""


def _say(words: str, status: int) -> int:
    sys.stdout.write(f"native/tests: {words}\n")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sanitizer", nargs="?", choices=list(SANITIZERS), default="address")
    parser.add_argument("--compiler", help="command; by default the one the library is built with")
    parser.add_argument("--machine", default=platform.machine(), help="processor family to compile for")
    parser.add_argument("--runner", default="", help="command that runs the program (qemu-aarch64)")
    options = parser.parse_args()
    try:
        compiler = shlex.split(options.compiler or build.find_compiler())
    except build.BuildError as error:
        return _say(f"not run, {error}", 0)
    sanitizer = SANITIZERS[options.sanitizer]
    with tempfile.TemporaryDirectory() as folder:
        if not options.runner and (reason := can_link(Path(folder), compiler, sanitizer)):
            return _say(f"not run, {options.sanitizer} cannot be used here: {reason}", 0)
        program = Path(folder, "kernels_test")
        try:
            make(program, compiler, options.machine, sanitizer)
        except build.BuildError as error:
            return _say(str(error), 1)
        command = [*shlex.split(options.runner), str(program), *(["no forks"] if options.runner else [])]
        return 0 if subprocess.run(command, check=False).returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
