"""Building the kernels: for another processor, and the package without a compiler."""

import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatglm import native
from chatglm.errors import ConfigError
from chatglm.native import library, structures

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "native" / "build.py"
TESTS = ROOT / "native" / "tests" / "run.py"


def run(*command: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_the_kernels_are_there_where_a_compiler_is() -> None:
    built = runpy.run_path(str(BUILD))
    try:
        built["find_compiler"]()
    except built["BuildError"]:
        pytest.skip("no compiler here")
    assert native.available(), native.why_not()


def test_no_compiler_is_said_clearly(tmp_path: Path) -> None:
    done = run(sys.executable, BUILD, tmp_path / "library.so", CXX="/nowhere/c++")
    assert done.returncode == 1
    assert done.stderr.strip() == "build.py: no C++ compiler was found (/nowhere/c++)"
    done = run(sys.executable, TESTS, CXX="/nowhere/c++")
    assert done.returncode == 0
    assert "not run, no C++ compiler was found" in done.stdout


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    done = run(sys.executable, BUILD, tmp_path / "library.so", "--no-such-option")
    assert done.returncode == 1
    assert "no-such-option" in done.stderr or "no C++ compiler" in done.stderr
    assert not (tmp_path / "library.so").exists()


def older_compiler(folder: Path, *unknown: str) -> Path:
    """A compiler like the one here that does not know some flags."""
    script = folder / "older-c++"
    real = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    script.write_text(
        f'#!/bin/sh\nfor each; do case "$each" in {"|".join(unknown)}) exit 1;; esac; done\nexec {real} "$@"\n'
    )
    script.chmod(0o755)
    return script


@pytest.mark.skipif(not shutil.which("c++"), reason="no compiler here")
@pytest.mark.parametrize(
    ("unknown", "machine", "levels", "said"),
    [
        ([], "x86_64", {"avx512_vnni", "avx_vnni", "avx2"}, []),
        (["-mavxvnni"], "x86_64", {"avx512_vnni", "avx_vnni", "avx2"}, ["-DCHATGLM_AVX_VNNI_IS_EVEX"]),
        (["-mavxvnni", "-mavx512vnni"], "x86_64", {"avx2"}, ["WITHOUT_AVX512_VNNI", "WITHOUT_AVX_VNNI"]),
        ([], "riscv64", set(), []),
    ],
)
def test_what_a_compiler_does_not_know_is_left_out(
    tmp_path: Path, unknown: list[str], machine: str, levels: set[str], said: list[str]
) -> None:
    if machine == "x86_64" and platform.machine() != machine:
        pytest.skip("the compiler here knows another processor's flags")
    command = [str(older_compiler(tmp_path, *(unknown or ["-none"])))]
    files = runpy.run_path(str(BUILD))["flags_by_file"](command, machine)
    assert {name.removeprefix("level_") for name in files} == {"api", "pool", "rounding", "portable", *levels}
    assert not [flag for flags in files.values() for flag in flags if flag in unknown]
    assert all(any(words in flag for flag in files["api"]) for words in said)
    assert said or not files["api"]


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("c++"), reason="needs an x86-64 compiler")
@pytest.mark.parametrize("unknown", [["-mavxvnni"], ["-mavxvnni", "-mavx512vnni"]])
def test_an_older_compiler_gives_a_library(tmp_path: Path, unknown: list[str]) -> None:
    done = run(sys.executable, BUILD, tmp_path / "library.so", "-O0", CXX=str(older_compiler(tmp_path, *unknown)))
    assert done.returncode == 0, done.stderr
    opened = library._open(tmp_path / "library.so")
    names = [opened.chatglm_level_name(index).decode() for index in range(opened.chatglm_num_levels())]
    assert "portable" in names
    assert ("avx_vnni" in names) == (len(unknown) == 1)


@pytest.mark.parametrize("text", [None, "no library at all"])
def test_a_library_that_cannot_be_used(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "libchatglm.so"
    if text is not None:
        path.write_text(text)
    with pytest.raises(library._Missing, match="C\\+\\+ compiler" if text is None else "does not load"):
        library._open(path)


@pytest.mark.skipif(not native.available(), reason="no native kernels")
@pytest.mark.parametrize(
    ("table", "name", "value", "words"),
    [
        (vars(library), "ABI", 99, "has interface .*, this version needs 99"),
        (structures.FUNCTIONS, "chatglm_next", [], "lacks a function: .*chatglm_next"),
        (structures.BY_NAME, "weight", structures._Cache, "lays out 'weight' differently"),
    ],
)
def test_a_library_of_another_version(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, object], name: str, value: object, words: str
) -> None:
    monkeypatch.setitem(table, name, value)
    with pytest.raises(library._Missing, match=words):
        library._open(library.FILE)


WITHOUT = """
import warnings, torch
from chatglm import native
from chatglm.errors import ConfigError
from chatglm.quant.packed import PackedLinear
from chatglm.quant.scheme import QuantScheme
assert not native.available()
print(native.why_not())
layer = PackedLinear.from_linear(torch.nn.Linear(40, 24), QuantScheme.parse("int4"))
with warnings.catch_warnings(record=True) as seen, torch.no_grad():
    warnings.simplefilter("always")
    states = torch.randn(3, 40)
    out = layer(states), layer(states)
assert len(seen) == 1, [str(warning.message) for warning in seen]
assert native.why_not() in str(seen[0].message)
torch.testing.assert_close(out[1], layer.to_linear()(states))
try:
    native.linear(None, None)
except (ConfigError, AttributeError) as error:
    print(type(error).__name__)
"""


def test_without_them_torch_multiplies_and_says_so_once(python: list[str]) -> None:
    done = run(*python, "-c", WITHOUT, CHATGLM_NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert "switched off by CHATGLM_NATIVE=0" in done.stdout


def test_the_library_refuses_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_opened", lambda: (None, "for this test"))
    assert (native.available(), native.why_not()) == (False, "for this test")
    with pytest.raises(ConfigError, match="cannot be used: for this test"):
        library.library()


@pytest.mark.slow
def test_the_package_installs_without_a_compiler(tmp_path: Path) -> None:
    """In a copy of the project, with the build backend that is installed here, and nothing from the network."""
    pytest.importorskip("hatchling")
    project, target = tmp_path / "project", tmp_path / "target"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("src", "native"):
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project / name)
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    done = run(*pip, "--target", target, project, CXX="/nowhere/c++")
    assert done.returncode == 0, done.stderr
    assert not list(target.rglob("*.so"))
    done = run(sys.executable, "-c", WITHOUT, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stderr
    assert "made without a C++ compiler; install one and reinstall chatglm" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="no cross compiler (g++-aarch64-linux-gnu)")
@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="no emulator (qemu-user)")
def test_arm() -> None:
    options = ("--machine", "aarch64", "--compiler", "aarch64-linux-gnu-g++", "--runner", "qemu-aarch64")
    done = run(sys.executable, TESTS, "none", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n")[:2] == ["neon_dotprod: ok", "portable: ok"]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_no_sanitizer_finds_anything(sanitizer: str) -> None:
    done = run(sys.executable, TESTS, sanitizer)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable: ok" in done.stdout or "not run" in done.stdout
    if platform.machine() == "x86_64" and "not run" not in done.stdout:
        assert "avx2: " in done.stdout
