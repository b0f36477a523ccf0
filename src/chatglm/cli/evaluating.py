"""`chatglm evaluate` and `chatglm bench`."""

from __future__ import annotations

import argparse
from typing import Any

from chatglm.cli.options import add_language, add_loading, add_server
from chatglm.cli.parser import add_command


def add_evaluate(commands: Any) -> None:
    command = add_command(
        commands,
        "evaluate",
        _evaluate,
        "score a model on public benchmarks, with the protocol beside each number",
        "Score a model on public benchmarks. Every prompt, answer and verdict is a line in --out; run again after it "
        "was ended, it goes on with what is not done. docs/evaluation.md tells the tasks and where their data go.",
    )
    command.add_argument(
        "model", nargs="?", metavar="MODEL", help="folder or hub name (default: the embedded tiny model)"
    )
    _add_what(command.add_argument_group("what"))
    add_server(command)
    add_loading(command)
    add_language(command)


def _add_what(group: Any) -> None:
    group.add_argument(
        "--tasks",
        metavar="LIST",
        help="tasks with commas between, each with a protocol if wanted: gsm8k,ceval:two-pass",
    )
    group.add_argument("--list", action="store_true", help="tell all tasks and protocols, and leave")
    group.add_argument("--out", metavar="DIR", help="folder for answers and reports; of an ended run: goes on with it")
    group.add_argument("--data-dir", metavar="DIR", help="where the data are: a folder for each task")
    group.add_argument(
        "--download", action="store_true", help="fetch missing data through the datasets library into --data-dir"
    )
    group.add_argument("--limit", type=int, metavar="N", help="items of each task, from its subjects in turn")
    group.add_argument("--shots", type=int, metavar="N", help="examples before a question (default: the protocol's)")
    group.add_argument(
        "--prompting",
        choices=("base", "chat"),
        help="the prompt as it is, or as a user's message (default: the protocol's)",
    )
    group.add_argument("--text", action="append", metavar="FILE", help="tell the perplexity of a text too")
    group.add_argument("--needle-lengths", metavar="LIST", help="tokens of the texts for needle, such as 4096,8192")
    group.add_argument(
        "--needle-depths", metavar="LIST", help="percent of a text before the needle (default: 0,25,...)"
    )
    group.add_argument(
        "--at-once", type=int, metavar="N", help="items computed at once (default: 32, or 16 of a server)"
    )
    group.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="compare two finished runs item by item, and leave"
    )
    group.add_argument("--json", action="store_true", help="with --compare: as JSON")
    group.add_argument(
        "--export-lm-eval", metavar="DIR", help="write the tasks for lm-evaluation-harness, offline, and leave"
    )


def _evaluate(options: argparse.Namespace) -> int:
    from chatglm.evaluate.command import start_evaluate

    return start_evaluate(options)


def add_bench(commands: Any) -> None:
    command = add_command(
        commands,
        "bench",
        _bench,
        "measure how fast a model runs on this machine",
        "Measure how fast a model runs on this machine: a prompt, decoding alone and several at once, memory, and the "
        "share of what reading the weights allows.",
    )
    command.add_argument(
        "model", nargs="?", metavar="MODEL", help="folder or hub name (default: the embedded tiny model)"
    )
    command.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens of a prompt (default: 512)")
    command.add_argument("--new", type=int, default=16, metavar="N", help="tokens decoded in a round (default: 16)")
    command.add_argument("--batch", default="1,8", metavar="LIST", help="requests decoded at once (default: 1,8)")
    command.add_argument("--json", action="store_true", help="as JSON instead of a table")
    add_loading(command)
    add_language(command)


def _bench(options: argparse.Namespace) -> int:
    from chatglm.evaluate.bench import start_bench

    return start_bench(options)
