"""The command line: what it accepts, how it fails, and its generated page."""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from chatglm import __version__, cli
from chatglm.errors import CheckpointError

REPOSITORY = Path(__file__).resolve().parents[1]


def run(capsys, *arguments):
    """Exit status, standard output and standard error of one command line."""
    try:
        status = cli.main(arguments)
    except SystemExit as leaving:
        status = leaving.code
    return status, *capsys.readouterr()


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"chatglm {__version__}\n", "")


@pytest.mark.parametrize("command", [[], ["chat"], ["info"], ["convert"]])
def test_help(capsys, command):
    status, output, errors = run(capsys, *command, "--help")
    assert (status, errors) == (0, "")
    assert output.startswith(" ".join(["usage: chatglm", *command]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "--modle", "x"], "unknown option --modle; did you mean --model?"),
        (["chat", "--temp=1"], "unknown option --temp; did you mean --temperature?"),
        (["chat", "hello", "world"], "unexpected argument 'world'; put text with blanks in quotes"),
        (["chat", "--qqqqqq"], "unknown option --qqqqqq\n"),
        (["chta"], "unknown value 'chta'; did you mean chat?"),
        (["chat", "--hub", "modelscop"], "unknown value 'modelscop'; did you mean modelscope?"),
        (["chat", "--quantize", "5"], "quantize is '5'; it must be int4"),
        (["chat", "--top-k", "many"], "--top-k: invalid int value: 'many'"),
        (["convert", "a", "b"], "the following arguments are required: --to"),
        ([], "a command is missing"),
        (["--verson"], "unknown option --verson; did you mean --version?"),
    ],
)
def test_a_wrong_command_line_is_explained(capsys, arguments, message):
    status, output, errors = run(capsys, *arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert errors.splitlines()[-1].endswith("--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "--temperature is -1.0; it must be"),
        (["--top-p", "0"], "--top-p is 0.0; it must be above 0"),
        (["--seed", "-3"], "--seed is -3; it must be from 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0; it must be at least 1"),
    ],
)
def test_values_are_checked_before_a_model_is_loaded(capsys, arguments, message):
    status, output, errors = run(capsys, "chat", "hello", *arguments)
    assert (status, output) == (2, "")
    assert errors == f"chatglm: error: {errors.removeprefix('chatglm: error: ')}"
    assert message in errors
    assert "torch" not in errors


def handler_that(monkeypatch, action):
    monkeypatch.setattr(cli.folders, "_info", lambda options: action())


def raise_(error):
    raise error


def test_our_errors_are_one_line(capsys, monkeypatch):
    handler_that(monkeypatch, lambda: raise_(CheckpointError("the file x.bin is truncated")))
    assert run(capsys, "info", "x") == (1, "", "chatglm: error: the file x.bin is truncated\n")


def test_what_an_error_quotes_does_not_steer_the_terminal(capsys, monkeypatch):
    quoted = "red \x1b[31m, title \x1b]0;pwned\x07, clear \x9b2J\r\n\tline 2 is 中文"
    handler_that(monkeypatch, lambda: raise_(CheckpointError(quoted)))
    _, _, errors = run(capsys, "info", "x")
    assert errors == "chatglm: error: red [31m, title ]0;pwned, clear 2J\n\tline 2 is 中文\n"


def test_tracebacks_on_request(capsys, monkeypatch):
    handler_that(monkeypatch, lambda: raise_(CheckpointError("the file x.bin is truncated")))
    status, output, errors = run(capsys, "info", "x", "--traceback")
    assert (status, output) == (1, "")
    assert errors.startswith("Traceback")
    assert errors.endswith("chatglm: error: the file x.bin is truncated\n")


def test_errors_of_the_system_are_one_line(capsys, monkeypatch):
    handler_that(monkeypatch, lambda: Path("/no/such/folder/x").read_text())
    assert run(capsys, "info", "x") == (1, "", "chatglm: error: /no/such/folder/x: No such file or directory\n")


def test_errors_that_are_not_ours_are_not_hidden(monkeypatch):
    handler_that(monkeypatch, lambda: raise_(RuntimeError("a bug")))
    with pytest.raises(RuntimeError):
        cli.main(["info", "x"])


def test_ctrl_c(capsys, monkeypatch):
    handler_that(monkeypatch, lambda: raise_(KeyboardInterrupt()))
    assert run(capsys, "info", "x") == (130, "", "")


def test_a_closed_pipe_is_no_error():
    code = (
        "from chatglm.cli import main as m, folders as c; c._info = lambda options: print('x' * 100_000) or 0; "
        "raise SystemExit(m(['info', 'x']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_python_m_chatglm_is_the_command():
    result = subprocess.run([sys.executable, "-m", "chatglm", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"chatglm {__version__}\n"


def load_generator():
    spec = importlib.util.spec_from_file_location("generate_cli", REPOSITORY / "docs" / "generate_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date():
    assert (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8") == load_generator().page()


def test_a_stale_page_is_noticed(tmp_path, monkeypatch, capsys):
    generator = load_generator()
    monkeypatch.setattr(generator, "PAGE", tmp_path / "cli.md")
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    (tmp_path / "cli.md").write_text("old")
    assert generator.main(["--check"]) == 1
    assert capsys.readouterr().err.count("is out of date; run: make docs") == 2


def test_every_option_is_documented():
    parser = cli.build_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        for action in command._actions:
            assert action.help, (name, action)
