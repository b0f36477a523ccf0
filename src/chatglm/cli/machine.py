"""`chatglm sandbox` and `chatglm doctor`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from chatglm.cli.options import add_isolation
from chatglm.cli.parser import add_command


def add_sandbox(commands: Any) -> None:
    command = add_command(
        commands,
        "sandbox",
        _sandbox,
        "run code in an isolated interpreter for another program",
        "Run code in one isolated interpreter for another program: a JSON request per line on standard input, an "
        "answer per line on standard output. docs/security.md describes both.",
    )
    command.add_argument("--jsonl", action="store_true", required=True, help="speak JSON lines")
    add_isolation(command)


def _sandbox(options: argparse.Namespace) -> int:
    from chatglm.sandbox.jsonl import main as serve

    unisolated = options.dangerously_run_unisolated
    return serve(tier=options.tier or ("none" if unisolated else "auto"), dangerously_run_unisolated=unisolated)


def add_doctor(commands: Any) -> None:
    add_command(commands, "doctor", _doctor, "tell what of this machine can be used, and how code can be isolated")


def _doctor(options: argparse.Namespace) -> int:
    from chatglm.terminal.doctor import report

    for line in report():
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0
