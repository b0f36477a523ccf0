"""Every file in examples/ runs as it stands and says something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
STARTERS = {
    "cli_demo.py": "chat",
    "web_demo_gradio.py": "web",
    "web_demo_streamlit.py": "web",
    "composite_demo/main.py": "web",
}  # go on until they are left
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if path.name not in STARTERS)


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["warm", "fresh"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path, fresh: bool, python: list[str]) -> None:
    command = [sys.executable] if fresh else python
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize("name", STARTERS)
def test_the_official_names_start_the_commands_they_stand_for(name: str) -> None:
    command = [sys.executable, str(FOLDER / name), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "MODEL_PATH": "a"})
    assert f"chatglm {STARTERS[name]}" in done.stdout


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3
