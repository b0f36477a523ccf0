"""The command line in Chinese: its help by the table beside this file, and what is wrong with it by `chatglm.words`."""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from chatglm.cli.chinese import CHINESE
from chatglm.cli.parser import Parser


def language_of(arguments: Sequence[str]) -> str | None:
    """The language that a command line names by --lang, before it is parsed; of another value the parser will tell."""
    for word, following in pairwise([*arguments, ""]):
        name, _, value = word.partition("=")
        if name == "--lang" and (found := value or following) in ("en", "zh"):
            return found
    return None


def translate(parser: Parser) -> None:
    """Puts everything a parser and those of its commands say into Chinese."""
    parser.language = "zh"
    parser.formatter_class = WideHelp
    parser.description = CHINESE.get(parser.description or "", parser.description)
    for group in parser._action_groups:
        group.title = CHINESE.get(group.title or "", group.title)
    for action in parser._actions:
        action.help = CHINESE.get(action.help or "", action.help)
        if isinstance(action, argparse._SubParsersAction):
            for summary in action._choices_actions:
                summary.help = CHINESE.get(summary.help or "", summary.help)
            for command in action.choices.values():
                translate(command)


class WideHelp(argparse.HelpFormatter):
    """Help whose lines are as long as a terminal shows them: a Chinese character takes two columns."""

    def add_usage(self, usage: str | None, actions: object, groups: object, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, "用法：" if prefix is None else prefix)  # type: ignore[arg-type]

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in wrapped(" ".join(text.split()), width - len(indent)))


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most that many columns, broken at blanks or between Chinese characters."""
    lines, used = [""], 0
    for word in re.findall(r"[!-~]+|\s|.", text):  # no punctuation stands at the beginning of a line
        columns = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in word)
        if used + columns > width and used and word not in "，。；：、）！？":
            lines.append("")
            used = 0
        if word != " " or used:
            lines[-1] += word
            used += columns
    return [line.rstrip() for line in lines]
