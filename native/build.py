"""Compiles the kernels into one shared library: `python native/build.py OUTPUT`.

Every file of an instruction set is compiled with flags of its own; which one runs is decided when the library loads.
Instruction sets the compiler does not know are left out.
Called by the package's build (see `hatch_build.py`), by the tests and by hand. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "src"
COMMON = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
]
X86 = {
    "level_avx512_vnni": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c"],
    "level_avx_vnni": ["-O2", "-mavx2", "-mfma", "-mf16c", "-mavxvnni"],  # -O3 is no faster, and takes longer
    "level_avx2": ["-O2", "-mavx2", "-mfma", "-mf16c"],
}
# The VNNI instruction of 256 bits has two encodings. That of AVX-512 is known to compilers before GCC 11 and clang 12.
EVEX = ["-O2", "-mavx2", "-mfma", "-mf16c", "-mavx512vl", "-mavx512vnni"]
ARM = {"level_neon_dotprod": ["-march=armv8.2-a+dotprod"]}
ALWAYS = ["api", "pool", "rounding", "level_portable"]


class BuildError(Exception):
    """The library could not be built; the text is for the user."""


def find_compiler() -> str:
    """The C++ compiler: $CXX, or the first of c++, g++, clang++ on the PATH.

    Raises:
        BuildError: there is none.
    """
    named = os.environ.get("CXX")
    for candidate in [named] if named else ["c++", "g++", "clang++"]:
        if candidate and shutil.which(candidate.split()[0]):
            return candidate
    raise BuildError(f"no C++ compiler was found ({named or 'c++, g++, clang++'})")


def flags_by_file(command: list[str], machine: str, *, evex: bool = False) -> dict[str, list[str]]:
    """The files to compile for a processor family, and the flags of each.

    Args:
        command: the compiler, which is asked what it knows.
        evex: compile the level of AVX-VNNI in its other encoding, whatever the compiler knows.
    """
    levels = X86 if machine in ("x86_64", "AMD64") else ARM if machine in ("aarch64", "arm64") else {}
    files: dict[str, list[str]] = {name: [] for name in ALWAYS}
    for level, flags in levels.items():
        if level == "level_avx_vnni" and (evex or not _knows(command, flags)):
            flags = EVEX
            files["api"].append("-DCHATGLM_AVX_VNNI_IS_EVEX")
        if _knows(command, flags):
            files[level] = flags
        else:
            files["api"].append(f"-DCHATGLM_WITHOUT_{level.removeprefix('level_').upper()}")
    return files


def _knows(command: list[str], flags: list[str]) -> bool:
    """Whether the compiler takes these flags."""
    empty = ["-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run([*command, *flags, *empty], capture_output=True, check=False).returncode == 0


def build(
    output: Path, *, compiler: str | None = None, machine: str | None = None, extra: list[str] | None = None
) -> Path:
    """Compile and link -> `output`.

    Args:
        output: the library to write, or, with a main file in `extra`, the program.
        compiler: command; by default `find_compiler()`.
        machine: processor family, by default this one.
        extra: more arguments for every call (`-fsanitize=address`).

    Raises:
        BuildError: no compiler, or it failed; with what it said.
    """
    command = (compiler or find_compiler()).split()
    flags = flags_by_file(command, machine or platform.machine())
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder, f"{name}.o") for name in flags]

        def compile_one(item: tuple[str, list[str]], target: Path) -> None:
            name, own = item
            _run([*command, *COMMON, *own, *(extra or []), "-c", str(SOURCE / f"{name}.cpp"), "-o", str(target)])

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(compile_one, flags.items(), objects))
        output.parent.mkdir(parents=True, exist_ok=True)
        _link(command, objects, output, extra or [])
    return output


def _link(command: list[str], objects: list[Path], output: Path, extra: list[str]) -> None:
    # Linked under another name first: a running program may have the old library mapped.
    partial = output.with_name(output.name + ".new")
    _run([*command, *extra, "-shared", "-pthread", *map(str, objects), "-o", str(partial)])
    partial.replace(output)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stderr.strip()}")
    if done.stderr:
        sys.stderr.write(done.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--machine", help="processor family (x86_64, aarch64); by default this one")
    try:
        arguments, rest = parser.parse_known_args()
        build(arguments.output, machine=arguments.machine, extra=rest)
    except BuildError as error:
        sys.exit(f"build.py: {error}")
