"""The parser behind the command line: no abbreviations, and it says what an unknown option might have meant."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and says what an unknown option might have meant."""

    language = "en"  # of what it says

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._explain(unknown))
        return parsed, unknown

    def _explain(self, unknown: Sequence[str]) -> str:
        option = next((word.partition("=")[0] for word in unknown if word.startswith("-") and word != "-"), None)
        if option is None:
            return f"unexpected argument {unknown[0]!r}; put text with blanks in quotes"
        return f"unknown option {option}" + did_you_mean(option, list(self._option_string_actions))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            allowed = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), allowed) or f"; it must be one of: {', '.join(allowed)}"
            raise argparse.ArgumentError(action, f"unknown value {value!r}{hint}")

    def error(self, message: str) -> NoReturn:
        from chatglm.words import choose

        words = choose(self.language)
        told = words("command_wrong", program=self.prog, message=words.error(message))
        self.exit(2, f"{told}\n")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    near = [name for name in known if name.startswith(word)] or difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def add_command(
    commands: Any, name: str, handler: Callable[[argparse.Namespace], int], summary: str, description: str = ""
) -> Parser:
    """Add one command; `handler` gets the parsed options and returns the exit status."""
    command: Parser = commands.add_parser(name, help=summary, description=description or f"{summary}.")
    command.set_defaults(handler=handler)
    command.add_argument("--traceback", action="store_true", help="show where an error came from")
    return command
