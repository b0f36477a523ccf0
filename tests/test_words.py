"""Both languages say the same things."""

import ast
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

import chatglm
from chatglm.agent.events import NoticeKind, TurnReason
from chatglm.terminal.commands import COMMANDS
from chatglm.words import ERRORS, NOTICES, SENTENCES, Words, choose

SOURCE = Path(chatglm.__file__).parent


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("name", SENTENCES)
def test_both_languages_fill_the_same_places(name):
    english, chinese = SENTENCES[name]
    assert placeholders(english) == placeholders(chinese)
    assert english.isascii()
    assert not chinese.isascii()


def test_every_sentence_is_used_and_every_use_has_a_sentence():
    used = set(NOTICES.values())
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name != "words.py":
                used.add(node.value)
    assert set(SENTENCES) <= used


@pytest.mark.parametrize(("english", "chinese"), ERRORS)
def test_an_error_fills_the_same_places_and_is_found_by_its_english(english, chinese):
    names = placeholders(english)
    assert placeholders(chinese) <= names
    assert english.isascii()
    assert not chinese.isascii()
    values = {name: f"<{name}>" for name in names}
    assert Words("en").error(english.format(**values)) == english.format(**values)
    assert Words("zh").error(english.format(**values)) == chinese.format(**values)  # no line before it takes it away


def test_what_no_line_knows_is_told_as_it_is():
    assert Words("zh").error("something {odd} happened") == "something {odd} happened"
    assert Words("zh").error("dtype is 'x y'; it must be float32") == "dtype 是 'x y'；应为 float32"
    assert Words("zh").error("there is no such thing; it must be here") == "there is no such thing; it must be here"


def test_every_ending_has_a_word():
    """Of turns, tasks and calls."""
    statuses = "ok error invalid refused stopped timeout killed".split()
    endings = {*get_args(TurnReason), *"done failed steps seconds tokens abort".split(), *statuses}
    for name in endings - {"stop", "length"}:  # these two are told in sentences of their own
        assert Words("en").ending(name) == name
        assert not Words("zh").ending(name).isascii()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_notice_is_told(language):
    from chatglm.agent.events import Notice
    from chatglm.terminal.screen import told

    for kind in get_args(NoticeKind):
        sentence = told(Notice(kind, count=3, reason="\x1b[2Jmemory"), Words(language))
        assert sentence
        assert "\x1b" not in sentence


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_names_every_command(language):
    for command in COMMANDS:
        assert f"\n{command}" in "\n" + Words(language)("help")


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "", "LC_MESSAGES": "zh_CN"}, "zh"),
    ],
)
def test_the_locale_decides(environment, language):
    assert choose(None, environment) == Words(language)


def test_the_option_wins_over_the_locale():
    assert choose("en", {"LANG": "zh_CN"}) == Words("en")
