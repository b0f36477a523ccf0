"""`chatglm data check` and `chatglm data convert`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from chatglm.cli.options import add_language
from chatglm.cli.parser import add_command

KINDS = ("answers", "pairs", "labels")
FORMATS = ("official", "openai", "sharegpt", "alpaca", "chatglm2", "text")


def add_data(commands: Any) -> None:
    command = add_command(
        commands,
        "data",
        _data,
        "check or convert rows to train on",
        "Check rows to train on, or write them in another spelling. Read are .jsonl, .json, .csv, .parquet and .txt; "
        "docs/finetuning.md has the spellings.",
    )
    command.add_argument("action", choices=("check", "convert"), metavar="ACTION", help="check or convert")
    command.add_argument("file", metavar="FILE", help="a data file, or a folder of them")
    command.add_argument("target", metavar="TARGET", nargs="?", help="the .jsonl file that convert writes")
    command.add_argument("--to", choices=FORMATS, help="the spelling that convert writes (default: official)")
    add_columns(command)
    command.add_argument(
        "--kind", choices=KINDS, help="what rows hold: answers, pairs for dpo, texts with labels (default: answers)"
    )
    command.add_argument("--model", metavar="M", help="whose tokenizer counts (default: the embedded tiny model)")
    command.add_argument("--max-length", type=int, metavar="N", help="tokens at which a row is cut (default: 2048)")
    command.add_argument("--samples", type=int, default=3, metavar="N", help="samples that are shown (default: 3)")
    add_language(command)


def add_columns(target: Any) -> None:
    target.add_argument(
        "--columns",
        metavar="NAMES",
        help="columns of question, answer and earlier turns, such as content,summary; of pairs question, preferred "
        "answer, other answer and earlier turns; of text and label",
    )


def _data(options: argparse.Namespace) -> int:
    from chatglm.errors import UsageError

    wrong = {
        "check": {"TARGET": options.target, "--to": options.to},
        "convert": {"--kind": options.kind, "--model": options.model, "--max-length": options.max_length},
    }[options.action]
    unused = next((name for name, value in wrong.items() if value is not None), None)
    if unused is not None:
        raise UsageError(f"{unused} says nothing to `chatglm data {options.action}`")
    return _check(options) if options.action == "check" else _convert(options)


def _check(options: argparse.Namespace) -> int:
    from chatglm.errors import UsageError
    from chatglm.loading import load_tokenizer
    from chatglm.train.check import check
    from chatglm.words import choose

    limit = 2048 if options.max_length is None else options.max_length
    if limit < 8 or options.samples < 0:
        raise UsageError(f"--max-length is {limit} and --samples {options.samples}; at least 8 and 0 are needed")
    text, good = check(
        options.file,
        load_tokenizer(options.model),
        limit,
        choose(options.lang),
        options.columns,
        options.samples,
        color=sys.stdout.isatty(),
        kind=options.kind or "answers",
    )
    sys.stdout.write(text)
    return 0 if good else 1


def _convert(options: argparse.Namespace) -> int:
    from chatglm.errors import UsageError
    from chatglm.train.formats import Columns
    from chatglm.train.respell import respell
    from chatglm.words import choose

    if options.target is None:
        raise UsageError("the file to write is missing: chatglm data convert FILE TARGET.jsonl")
    columns = None if options.columns is None else Columns.parse(options.columns)
    count = respell(options.file, options.target, options.to or "official", columns)
    sys.stdout.write(choose(options.lang)("data_written", count=count, file=options.target) + "\n")
    return 0
