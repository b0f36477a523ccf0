"""The command line: what it accepts, how it fails, and its generated page."""

import argparse
import importlib.util
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from chatglm import __version__, cli
from chatglm.cli.chinese import CHINESE
from chatglm.cli.translate import wrapped
from chatglm.errors import CheckpointError

REPOSITORY = Path(__file__).resolve().parents[1]


def slow(*values):
    """What imports torch."""
    return pytest.param(*values, marks=pytest.mark.slow)


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


def texts(parser):
    """Everything that a parser and those of its commands tell in their help."""
    yield from filter(None, (parser.description, *(group.title for group in parser._action_groups)))
    for action in parser._actions:
        if action.help:
            yield action.help
        if isinstance(action, argparse._SubParsersAction):
            yield from (summary.help for summary in action._choices_actions)
            for command in action.choices.values():
                yield from texts(command)


def test_every_text_of_the_help_has_its_chinese_and_no_other_is_kept():
    assert set(texts(cli.build_parser())) == set(CHINESE)
    assert not any(chinese.isascii() for chinese in CHINESE.values())


@pytest.mark.parametrize("command", [[], ["chat"], ["finetune"]])
def test_help_in_chinese(capsys, monkeypatch, command):
    status, output, errors = run(capsys, "--lang", "zh", *command, "--help")
    assert (status, errors) == (0, "")
    assert output.startswith("用法：" + " ".join(["chatglm", *command]))
    assert "选项" in output
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert run(capsys, *command, "--help") == (0, output, "")
    assert run(capsys, "--lang=en", *command, "--help")[1].startswith("usage: chatglm")


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_no_line_of_chinese_is_wider_than_its_terminal(columns):
    for text in CHINESE.values():
        lines = wrapped(text, columns)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        for line in lines:
            width = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)
            assert width <= columns + 2 or " " not in line.strip()  # punctuation hangs over, a long word is not cut


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lang", "zh", "chat", "--modle", "x"], "没有选项 --modle；是不是 --model？\n参见：chatglm chat --help"),
        (["chat", "--lang", "zh", "--top-k", "many"], "参数 --top-k：'many' 不是整数"),
        (["--lang", "zh"], "缺少命令"),
        (["--lang", "zh", "convert", "a", "b"], "缺少参数：--to"),
        (["--lang", "zh", "chat", "--hub"], "参数 --hub 后面需要一个值"),
        slow(["--lang", "zh", "chat", "--model", "/nowhere", "hi"], "本机没有文件夹 '/nowhere'"),
        slow(["--lang", "zh", "info", "{tmp}"], "中没有 config.json；它是空文件夹"),
        (["--lang", "zh", "chat", "--tools", "nonsense", "hi"], "没有内置工具 'nonsense'"),
        (["--lang", "zh", "chat", "--tools", "x.py", "hi"], "没有文件 'x.py'"),
        (["--lang", "zh", "chat", "--temperature", "-1", "hi"], "--temperature 是 -1.0；应不小于 0"),
        (["--lang", "zh", "chat", "--upload", "x", "hi"], "请加 --code"),
        (["--lang", "zh", "chat", "--load", "{tmp}/none", "hi"], "无法读取"),
        (["--lang", "zh", "web", "--api-key-env", "X"], "请加 --api-base URL"),
    ],
)
def test_what_people_get_wrong_most_is_told_in_chinese(capsys, tmp_path, arguments, message):
    status, output, errors = run(capsys, *(word.replace("{tmp}", str(tmp_path)) for word in arguments))
    assert (status in (1, 2), output) == (True, "")
    assert "：错误：" in errors
    assert message in errors


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
