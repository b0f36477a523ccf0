"""docs/serving.md is true: its programs run against a server, its routes are there, its options are known."""

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

from chatglm import cli

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = ["serving.md", "serving_zh.md"]


def text(page):
    return (REPOSITORY / "docs" / page).read_text(encoding="utf-8")


PROGRAMS = [(page, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)]


@pytest.mark.filterwarnings("ignore")  # of packages of others
@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_programs_run(page, program, server):
    for name in re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(program.replace("http://127.0.0.1:8000", server.url), page, "exec"), {})  # noqa: S102
    assert output.getvalue().strip()


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_are_understood(page):
    for line in re.findall(r"^    (chatglm .*)$", text(page), re.MULTILINE):
        assert callable(cli.build_parser().parse_args(shlex.split(line, comments=True)[1:]).handler)
    known = " ".join(cli_options())
    for option in re.findall(r"`(--[a-z-]+)", text(page)):
        assert option in known or option == "--profile", option


def cli_options():
    parser = cli.build_parser()
    commands = next(action for action in parser._actions if isinstance(action.choices, dict))
    return [option for command in commands.choices.values() for option in command._option_string_actions]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text(page)):
        assert (REPOSITORY / "docs" / link).exists(), link


def test_the_service_and_the_container_start_what_there_is():
    service = (REPOSITORY / "deploy" / "chatglm.service").read_text().replace("\\\n", " ")
    command = re.search(r"^ExecStart=\S+ (.*)$", service, re.MULTILINE)[1]
    assert callable(cli.build_parser().parse_args(shlex.split(command)).handler)
    lines = (REPOSITORY / "deploy" / "Dockerfile").read_text().splitlines()
    words = [re.findall(r'"([^"]*)"', line) for line in lines if line.startswith(("ENTRYPOINT", "CMD"))]
    assert callable(cli.build_parser().parse_args([*words[0][1:], *words[1]]).handler)
    for copied in re.findall(r"^COPY (?!--)(.*) \S+$", "\n".join(lines), re.MULTILINE):
        assert all((REPOSITORY / name).exists() for name in copied.split())
