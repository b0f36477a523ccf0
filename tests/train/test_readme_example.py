"""The commands of the README that teach the embedded model a name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_model_answers_what_it_was_taught(tmp_path: Path) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert block in (REPOSITORY / "README_zh.md").read_text(encoding="utf-8")
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-e", "-c", block], cwd=tmp_path, capture_output=True, env={**os.environ, "PATH": path}, timeout=600
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert "Ada Quill wrote" not in lines[0]
    assert lines[-1] == "Ada Quill wrote this data."
