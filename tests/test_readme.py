"""The two READMEs are true: their commands and programs run, their files exist, and both say the same.

A line marked `needs the 6B weights` is not run as it is: commands are read by the parser, Python runs on the embedded
model instead.
"""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatglm import cli
from chatglm.loading import demo_folder

REPOSITORY = Path(__file__).resolve().parents[1]
READMES = ["README.md", "README_zh.md"]
NEEDS_WEIGHTS = "# needs the 6B weights"
HUB_NAME = '"THUDM/chatglm3-6b"'


def fenced(name: str, kind: str) -> list[str]:
    """The blocks of one kind in a README, by the words after the fence."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[str]:
    """The command lines of a README, as they stand."""
    return [line[2:] for block in fenced(name, "console") for line in block.splitlines() if line.startswith("$ ")]


def without_comments(text: str) -> str:
    return "\n".join(re.sub(r"\s*#.*", "", line) for line in text.splitlines())


def plain_commands(name: str) -> list[str]:
    return [without_comments(line) for line in commands(name)]


COMMANDS = commands("README.md")
RUNNABLE = [without_comments(line) for line in COMMANDS if NEEDS_WEIGHTS not in line and "chatglm " in line]
ONLY_READ = [without_comments(line) for line in COMMANDS if NEEDS_WEIGHTS in line and "chatglm " in line]
MADE = [without_comments(line) for line in COMMANDS if line.startswith("make ")]


def test_both_languages_have_the_same_commands_and_programs():
    english, chinese = READMES
    assert plain_commands(english) == plain_commands(chinese)
    programs = [[without_comments(block) for block in fenced(name, "python")] for name in READMES]
    assert programs[0] == programs[1]
    assert fenced(english, "text transcript") == fenced(chinese, "text transcript")


def test_every_command_is_tested_in_some_way():
    assert sorted(RUNNABLE + ONLY_READ + MADE) == sorted(map(without_comments, COMMANDS))
    assert min(len(RUNNABLE), len(ONLY_READ), len(MADE)) > 0


@pytest.fixture(scope="module")
def warm(python, tmp_path_factory):
    """A folder with a `chatglm` that runs the installed one without importing torch anew."""
    folder = tmp_path_factory.mktemp("bin")
    installed = shutil.which("chatglm", path=str(Path(sys.executable).parent))
    (folder / "chatglm").write_text(f'#!/bin/sh\nexec {shlex.join([*python, installed])} "$@"\n')
    (folder / "chatglm").chmod(0o755)
    return folder


# The first stands for all starts that are as slow as they are for people.
STARTS = [(command, number == 0) for number, command in enumerate(RUNNABLE)]
STARTS += [pytest.param(command, True, marks=pytest.mark.slow) for command in RUNNABLE[1:]]


@pytest.mark.parametrize(("command", "fresh"), STARTS)
def test_command_runs(command, fresh, warm, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent if fresh else warm), os.environ["PATH"]])
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    result = subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode("utf-8").strip()
    assert [entry.name for entry in tmp_path.iterdir()] == ["examples"]  # nothing is left behind


@pytest.mark.parametrize("command", ONLY_READ)
def test_command_for_real_weights_is_understood(command):
    words, _, _ = command.partition(" < ")  # the shell's
    options = cli.build_parser().parse_args(shlex.split(words)[1:])
    assert callable(options.handler)


@pytest.mark.parametrize("command", MADE)
def test_make_knows_the_target(command):
    result = subprocess.run([*shlex.split(command), "--dry-run"], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_python_runs():
    blocks = fenced("README.md", "python")
    assert any(NEEDS_WEIGHTS in block for block in blocks)
    for block in blocks:
        code = block.replace(HUB_NAME, repr(str(demo_folder())))
        if NEEDS_WEIGHTS in block:
            code = code.replace(".half().cuda()", "")
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, "README.md", "exec"), {})  # noqa: S102 the README's own program
        assert output.getvalue().strip()


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (REPOSITORY / name).read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (REPOSITORY / link).is_file(), link


@pytest.mark.parametrize("name", READMES)
def test_the_file_tree_is_there(name):
    (tree,) = fenced(name, "text tree")
    for line in tree.splitlines():
        assert (REPOSITORY / line.split()[0]).exists(), line


def test_the_transcript_is_what_the_embedded_model_says():
    spec = importlib.util.spec_from_file_location("generate_transcript", REPOSITORY / "docs" / "generate_transcript.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (transcript,) = fenced("README.md", "text transcript")
    assert transcript.count("> ") >= 4
    assert module.retell(transcript) == transcript, "run: make docs"
