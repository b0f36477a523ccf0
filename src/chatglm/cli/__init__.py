"""DOOR the command `chatglm`. Every handler imports what it needs inside, so that `--help` costs no torch."""

from __future__ import annotations

import argparse
import gc
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from chatglm.cli import cache, data, evaluating, folders, machine, perplexity, serving, talk, training, web
from chatglm.cli.options import add_language
from chatglm.cli.parser import Parser
from chatglm.cli.streams import Streams
from chatglm.cli.translate import language_of, translate
from chatglm.errors import ChatGLMError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
# Objects made before Python looks for cycles among them (its own: 700). Starting makes half a million that stay, and
# looking through them again and again takes as long as half of the imports.
_MOST_YOUNG = 50_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: those of the process) and return the exit status."""
    if arguments is None:  # the process is ours
        gc.set_threshold(_MOST_YOUNG)
    streams = Streams()
    if streams.closed:
        sys.stderr.write("chatglm: error: standard output is closed; it must lead somewhere, if only to /dev/null\n")
        return 1
    try:
        return streams.finish(_run(arguments, streams))
    except SystemExit as leave:  # of the parser: help was asked for, or it cannot make sense of something
        raise SystemExit(streams.finish(int(leave.code or 0))) from None


def _run(arguments: Sequence[str] | None, streams: Streams) -> int:
    from chatglm.words import choose, printable

    given = [word.removeprefix("\ufeff") for word in (sys.argv[1:] if arguments is None else arguments)]  # of Windows
    words = choose(language_of(given))
    parser = build_parser()
    if words.language == "zh":
        translate(parser)
    options = parser.parse_args(given)
    if options.command is None:
        parser.error("a command is missing")
    options.lang = getattr(options, "lang", None) or options.language  # of the command, or before it
    try:
        status: int = options.handler(options)
        return status
    except (ChatGLMError, OSError) as error:
        if streams.failed:
            return 1
        if not isinstance(error, ChatGLMError) and error.errno is None:  # no answer of the system: a mistake in here
            raise
        if options.traceback:
            traceback.print_exc()
        told = words("program_wrong", message=words.error(printable(_told(error))))
        sys.stderr.write(f"{told}\n")
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        return INTERRUPTED


def _told(error: ChatGLMError | OSError) -> str:
    """An error as people read it; of the system's the file and the reason."""
    if isinstance(error, ChatGLMError) or error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror}"


def build_parser() -> Parser:
    """The whole command line; docs/cli.md is generated from it."""
    parser = Parser(prog="chatglm", description="Run ChatGLM3-6B and ChatGLM2-6B on today's PyTorch and transformers.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    add_language(parser, dest="language")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for add in (
        talk.add_chat,
        talk.add_agent,
        serving.add_serve,
        serving.add_batch,
        web.add_web,
        machine.add_sandbox,
        machine.add_doctor,
        folders.add_info,
        folders.add_convert,
        folders.add_quantize,
        evaluating.add_evaluate,
        evaluating.add_bench,
        perplexity.add_perplexity,
        training.add_finetune,
        training.add_pretrain,
        training.add_merge,
        data.add_data,
        cache.add_cache,
    ):
        add(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version, imported only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from chatglm import __version__

        sys.stdout.write(f"chatglm {__version__}\n")
        parser.exit()
