"""`chatglm chat` as people run it: the real program, the embedded model, a real terminal."""

import json
import os
import subprocess

import pytest
from pseudo_terminal import PseudoTerminal

from chatglm.words import Words

CHAT = ["-m", "chatglm", "chat"]
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


@pytest.fixture
def open_chat(python, tmp_path):
    opened = []

    def start(*arguments: str, **environment: str) -> PseudoTerminal:
        place = {"XDG_STATE_HOME": str(tmp_path / "state"), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TERM": "xterm"}
        terminal = PseudoTerminal([*python, *CHAT, *arguments], {**place, **environment})
        opened.append(terminal)
        return terminal

    yield start
    for terminal in opened:
        terminal.close()


def test_a_conversation(open_chat, tmp_path):
    terminal = open_chat("--greedy")
    assert "It is not Zhipu's ChatGLM" in " ".join(terminal.wait_for("is ready.").split())
    terminal.wait_for("> ")
    terminal.type("你好" + ENTER)
    terminal.wait_for("你好" + "\n")
    chinese = terminal.wait_for("\n> ")
    assert any("\u4e00" <= character <= "\u9fff" for character in chinese)
    terminal.type("Who are you?" + ENTER)
    terminal.wait_for("\n")
    english = terminal.wait_for("\n> ").removesuffix("\n> ")
    assert english.isascii()
    assert english.strip()
    terminal.type("/svae x" + ENTER)
    terminal.wait_for("Did you mean /save?")
    terminal.wait_for("> ")
    terminal.type(f"/save {tmp_path}/talk.json" + ENTER)
    terminal.wait_for("Saved 4 messages")
    terminal.type("clear" + ENTER)
    terminal.wait_for(Words("en")("cleared"))
    terminal.type(f"/load {tmp_path}/talk.json" + ENTER)
    terminal.wait_for("Loaded 4 messages")
    terminal.type("/tokens" + ENTER)
    terminal.wait_for("by 4 messages")
    terminal.type("stop" + ENTER)
    assert terminal.wait_for_end() == 0
    messages = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert all(message["ids"] for message in messages[1::2])
    # The history of typed lines is kept.
    assert "你好" in (tmp_path / "state" / "chatglm" / "history").read_text(encoding="utf-8")


def test_ctrl_c_stops_the_answer_and_not_the_program_on_a_dumb_terminal(open_chat):
    # At this temperature every token is as likely as any other: the answer has no end.
    terminal = open_chat("--temperature", "1000", "--top-p", "1", "--seed", "3", TERM="dumb")
    terminal.wait_for("is ready.")
    terminal.wait_for("> ")
    terminal.type("go" + ENTER)
    terminal.wait_for("go\n")
    terminal.wait_for_more(60)
    terminal.type(CTRL_C)
    terminal.wait_for(Words("en")("stopped"))
    terminal.wait_for("> ")
    terminal.type("/tokens" + ENTER)
    terminal.wait_for("by 2 messages")
    terminal.type("and on" + ENTER)
    terminal.wait_for("and on\n")
    terminal.wait_for_more(60)
    terminal.type(CTRL_C)
    terminal.wait_for(Words("en")("stopped"))
    terminal.wait_for("> ")
    terminal.wait_for_keys()
    terminal.type(CTRL_C)
    terminal.wait_for(Words("en")("leave_hint") + "\n> ")
    terminal.wait_for_keys()
    terminal.type(CTRL_C)
    assert terminal.wait_for_end() == 0


@pytest.mark.slow
def test_code_and_colours_are_switched_on_later_in_chinese(open_chat, tmp_path):
    (tmp_path / "数据.csv").write_text("1,2")
    terminal = open_chat("--greedy", "--lang", "zh", COLORFGBG="0;15", NO_COLOR="")
    words = Words("zh")
    terminal.wait_for("已就绪")
    terminal.wait_for("> ")
    terminal.type("/theme" + ENTER)
    terminal.wait_for(words("theme_is", name="light", all="dark, light, none"))
    terminal.wait_for("> ")
    terminal.type("/files" + ENTER)
    terminal.wait_for("用 /code 打开")
    terminal.wait_for("> ")
    terminal.type("/code" + ENTER)
    terminal.wait_for(words("has_code"))
    terminal.wait_for("> ")
    terminal.type(f"/upload {tmp_path}/数据.csv" + ENTER)  # into a real interpreter
    terminal.wait_for("/mnt/data/数据.csv")
    terminal.wait_for("> ")
    terminal.type("/files" + ENTER)
    terminal.wait_for("数据.csv  3")
    terminal.wait_for("> ")
    terminal.type("/theme none" + ENTER)
    terminal.wait_for(words("theme_is", name="none", all="dark, light, none"))
    terminal.wait_for("> ")
    terminal.type("/adapter /nowhere" + ENTER)
    terminal.wait_for("本机没有文件夹 '/nowhere'")
    terminal.wait_for("> ")
    terminal.type(CTRL_D)
    assert terminal.wait_for_end() == 0


@pytest.mark.slow
def test_help_speaks_the_language_of_the_locale(open_chat):
    terminal = open_chat("--help", LC_ALL="", LANG="zh_CN.UTF-8")
    terminal.wait_for("用法：")
    terminal.wait_for("系统提示")
    assert terminal.wait_for_end() == 0


def test_a_piped_prompt_gives_the_answer_and_nothing_else(python):
    result = subprocess.run(
        [*python, *CHAT, "--greedy"],
        input="你好\n",
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("\n")
    assert result.stdout.strip()
