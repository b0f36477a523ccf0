"""`chatglm chat` and `chatglm agent`."""

from __future__ import annotations

import argparse
from typing import Any

from chatglm.cli.options import add_conversation, add_language, add_loading, add_sampling, add_server, add_workbench
from chatglm.cli.parser import add_command


def add_chat(commands: Any) -> None:
    command = add_command(
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
    add_server(command)
    add_loading(command)
    add_sampling(command)
    add_conversation(command)
    add_workbench(command)


def _chat(options: argparse.Namespace) -> int:
    from chatglm.terminal.start import start

    return start(options)


def add_agent(commands: Any) -> None:
    command = add_command(
        commands,
        "agent",
        _agent,
        "have a task planned and carried out",
        "Have a task planned and carried out with tools and code. The final answer is written to standard output, "
        "everything else to standard error. Exit status 1: the task was not done to its end.",
    )
    command.add_argument("task", nargs="?", metavar="TASK", help="what is to be done")
    command.add_argument("--model", metavar="M", help="folder or hub name (default: the embedded tiny model)")
    group = command.add_argument_group("task")
    group.add_argument("--max-steps", type=int, metavar="N", help="steps that are carried out at most (default: 12)")
    group.add_argument("--max-seconds", type=float, metavar="S", help="wall time of the whole task (default: 900)")
    group.add_argument("--trace", metavar="FILE", help="write what happens to a file, one JSON object per line")
    group.add_argument(
        "--replay",
        metavar="FILE",
        help="show a trace instead; with --tools and --code its actions are carried out again and compared",
    )
    group.add_argument("--yes", action="store_true", help="allow dangerous tools without asking")
    add_language(group)
    add_workbench(command)
    add_loading(command)
    add_sampling(command)


def _agent(options: argparse.Namespace) -> int:
    from chatglm.terminal.task import start_task

    return start_task(options)
