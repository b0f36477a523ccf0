"""DOOR the command `chatglm`. Every handler imports what it needs inside, so that `--help` costs no torch."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from chatglm.errors import ChatGLMError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
PIPE_CLOSED = 141  # 128 + SIGPIPE


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and says what an unknown option might have meant."""

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
        return f"unknown option {option}" + _did_you_mean(option, list(self._option_string_actions))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            allowed = [str(choice) for choice in action.choices]
            hint = _did_you_mean(str(value), allowed) or f"; it must be one of: {', '.join(allowed)}"
            raise argparse.ArgumentError(action, f"unknown value {value!r}{hint}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nSee: {self.prog} --help\n")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = [name for name in known if name.startswith(word)] or difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: those of the process) and return the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error("a command is missing")
    try:
        status: int = options.handler(options)
        sys.stdout.flush()
        return status
    except ChatGLMError as error:
        if options.traceback:
            traceback.print_exc()
        sys.stderr.write(f"chatglm: error: {error}\n")
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left. Give the interpreter a stdout it can flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def build_parser() -> Parser:
    """The whole command line; docs/cli.md is generated from it."""
    parser = Parser(prog="chatglm", description="Run ChatGLM3-6B and ChatGLM2-6B on today's PyTorch and transformers.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for add in (_add_chat, _add_info, _add_convert):
        add(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version, imported only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from chatglm import __version__

        sys.stdout.write(f"chatglm {__version__}\n")
        parser.exit()


def _command(commands: Any, name: str, handler: Any, summary: str, description: str = "") -> Parser:
    command: Parser = commands.add_parser(name, help=summary, description=description or f"{summary}.")
    command.set_defaults(handler=handler)
    command.add_argument("--traceback", action="store_true", help="show where an error came from")
    return command


# chat


def _add_chat(commands: Any) -> None:
    command = _command(
        commands,
        "chat",
        _chat,
        "talk to a model",
        "Talk to a model. With a PROMPT, or with text piped in, the answer alone is written to standard output.",
    )
    command.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="one message to answer; - reads it from standard input"
    )
    command.add_argument("--model", metavar="M", help="folder or hub name (default: the embedded tiny model)")
    _add_loading(command)
    _add_sampling(command)
    _add_conversation(command)


def _add_loading(command: Parser) -> None:
    group = command.add_argument_group("loading")
    group.add_argument("--hub", choices=("huggingface", "modelscope"), help="where hub names are looked up")
    group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps, ... (default: the best there is)")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "auto"),
        help="number format of the weights; auto: as stored (default: what fits the device)",
    )
    group.add_argument("--quantize", type=int, choices=(4, 8), help="bits per weight (default: as stored)")
    group.add_argument("--adapter", metavar="FOLDER", help="LoRA folder or hub name to attach")
    group.add_argument("--prefix", metavar="FILE", help="P-Tuning v2 file or folder")
    _add_rope_ratio_meaning(group)


def _add_rope_ratio_meaning(target: Any) -> None:
    target.add_argument(
        "--rope-ratio-meaning",
        choices=("base", "position"),
        help="what rope_ratio acts on, for a folder that does not tell (ChatGLM3: base, ChatGLM2: position)",
    )


def _add_sampling(command: Parser) -> None:
    group = command.add_argument_group("sampling")
    group.add_argument(
        "--temperature", type=float, metavar="X", help="0 is greedy, higher is more varied (default: 0.8)"
    )
    group.add_argument(
        "--top-p",
        type=float,
        metavar="X",
        help="keep the likeliest tokens up to this share (default: 0.8)",
    )
    group.add_argument("--top-k", type=int, metavar="N", help="keep the N likeliest tokens (default: all)")
    group.add_argument(
        "--repetition-penalty", type=float, metavar="X", help="above 1 makes repeating less likely (default: off)"
    )
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens of one answer (default: no limit)")
    group.add_argument(
        "--max-length", type=int, metavar="N", help="tokens of conversation and answer (default: the model's context)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answers")
    group.add_argument("--greedy", action="store_true", help="always take the likeliest token")


def _add_conversation(command: Parser) -> None:
    group = command.add_argument_group("conversation")
    group.add_argument("--system", metavar="TEXT", help="system prompt")
    group.add_argument("--load", metavar="FILE", help="go on with a conversation written by /save")
    group.add_argument("--stats", action="store_true", help="write tokens per second to standard error")
    group.add_argument("--no-color", action="store_true", help="plain text only (also: the variable NO_COLOR)")
    group.add_argument(
        "--lang", choices=("en", "zh"), help="language of the program's own messages (default: the locale)"
    )


def _chat(options: argparse.Namespace) -> int:
    from chatglm.terminal.start import start

    return start(options)


# info, convert


def _add_info(commands: Any) -> None:
    command = _command(
        commands, "info", _info, "tell what the model in a folder is: variant, size, context, memory needs"
    )
    command.add_argument("folder", metavar="FOLDER", help="a model folder")


def _info(options: argparse.Namespace) -> int:
    from chatglm.inspect import info_text

    sys.stdout.write(info_text(options.folder).rstrip("\n") + "\n")
    return 0


def _add_convert(commands: Any) -> None:
    command = _command(commands, "convert", _convert, "rewrite a model folder in another layout")
    command.add_argument("source", metavar="SRC", help="the model folder to read")
    command.add_argument("destination", metavar="DST", help="the folder to write; it must not hold a model yet")
    command.add_argument(
        "--to",
        required=True,
        choices=("glm", "official"),
        help="glm: stock GlmForCausalLM of transformers; official: the names and fusions of the official files",
    )
    _add_rope_ratio_meaning(command)


def _convert(options: argparse.Namespace) -> int:
    from chatglm.inspect import convert

    meaning = options.rope_ratio_meaning
    folder = convert(options.source, options.destination, to=options.to, rope_ratio_meaning=meaning)
    sys.stdout.write(f"Wrote {folder}\n")
    return 0
