"""DOOR the command `chatglm`. Every handler imports what it needs inside, so that `--help` costs no torch."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from chatglm.cli import cache, machine, talk, weights
from chatglm.cli.parser import Parser
from chatglm.errors import ChatGLMError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
PIPE_CLOSED = 141  # 128 + SIGPIPE


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
    for add in (
        talk.add_chat,
        talk.add_agent,
        machine.add_sandbox,
        machine.add_doctor,
        weights.add_info,
        weights.add_convert,
        weights.add_quantize,
        weights.add_perplexity,
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
