"""Both languages say the same things."""

from dataclasses import fields
from string import Formatter
from typing import get_args

import pytest

from chatglm.agent.events import TurnReason
from chatglm.terminal.commands import COMMANDS
from chatglm.terminal.language import CHINESE, ENGLISH, Texts, choose


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("name", [field.name for field in fields(Texts)])
def test_both_languages_fill_the_same_places(name):
    english, chinese = getattr(ENGLISH, name), getattr(CHINESE, name)
    assert placeholders(english) == placeholders(chinese)
    assert english.isascii()
    assert not chinese.isascii()


def test_every_ending_has_a_word():
    """Of turns, tasks and calls."""
    statuses = "ok error invalid refused stopped timeout killed".split()
    endings = {*get_args(TurnReason), *"done failed steps seconds tokens abort".split(), *statuses}
    for name in endings - {"stop", "length"}:  # these two are told in sentences of their own
        assert ENGLISH.word(name) == name
        assert not CHINESE.word(name).isascii()


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE])
def test_help_names_every_command(texts):
    for command in COMMANDS:
        assert f"\n{command}" in f"\n{texts.help}"


@pytest.mark.parametrize(
    ("environment", "texts"),
    [
        ({}, ENGLISH),
        ({"LANG": "C.UTF-8"}, ENGLISH),
        ({"LANG": "zh_CN.UTF-8"}, CHINESE),
        ({"LANG": "zh_TW"}, CHINESE),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, ENGLISH),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "", "LC_MESSAGES": "zh_CN"}, CHINESE),
    ],
)
def test_the_locale_decides(environment, texts):
    assert choose(None, environment) is texts


def test_the_option_wins_over_the_locale():
    assert choose("en", {"LANG": "zh_CN"}) is ENGLISH
