"""Every file in examples/ runs as it stands and says something."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["warm", "fresh"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path, fresh: bool, python: list[str]) -> None:
    command = [sys.executable] if fresh else python
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    assert len(path.read_text().splitlines()) <= 40


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3
