"""`chatglm finetune`, `chatglm pretrain` and `chatglm merge`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from chatglm.cli.data import add_columns
from chatglm.cli.options import add_hub, add_language, add_rope_ratio_meaning
from chatglm.cli.parser import Parser, add_command

METHODS = ("lora", "dora", "rslora", "qlora", "dpo", "ptuning", "sft")
TASKS = ("answers", "classify")
# Options that are no settings.
_OURS = ("command", "handler", "traceback", "config", "resume", "lang", "nice", "threads")


def add_finetune(commands: Any) -> None:
    command = add_command(
        commands,
        "finetune",
        _finetune,
        "teach a model by examples",
        "Teach a model by examples: a LoRA adapter, a P-Tuning prefix, or all weights. docs/finetuning.md has an "
        "example for each. Progress goes to standard error.",
    )
    _add_run(command)
    command.add_argument(
        "--method", choices=METHODS, help="what is trained (default: lora); dpo: a LoRA on pairs of answers"
    )
    command.add_argument(
        "--task", choices=TASKS, help="what is learned: answers, or to give texts their labels (default: answers)"
    )
    group = command.add_argument_group("adapters")
    group.add_argument("--rank", type=int, metavar="N", help="of LoRA (default: 8)")
    group.add_argument("--alpha", type=float, metavar="X", help="of LoRA; alpha / rank is its factor (default: 32)")
    group.add_argument("--dropout", type=float, metavar="X", help="of LoRA (default: 0.1, for dpo 0)")
    group.add_argument(
        "--beta", type=float, metavar="X", help="of dpo: how dear it is to leave the base (default: 0.1)"
    )
    group.add_argument(
        "--targets", type=_names, metavar="NAMES", help="linear layers that get LoRA (default: query_key_value)"
    )
    group.add_argument("--prefix-length", type=int, metavar="N", help="of P-Tuning v2 (default: 128)")
    group.add_argument("--prefix-projection", action="store_true", default=None, help="P-Tuning v2 with a projection")
    group.add_argument("--quantize", metavar="SCHEME", help="of the base, such as int4-g64 (default for qlora: int4)")


def add_pretrain(commands: Any) -> None:
    command = add_command(
        commands,
        "pretrain",
        _pretrain,
        "train all weights on texts or conversations",
        "Train all weights on texts or conversations, from a base or from nothing: rows are packed, the rate rises and "
        "falls with a cosine, checkpoints are written by wall time.",
    )
    _add_run(command)
    command.add_argument("--fresh", action="store_true", default=None, help="begin with new weights of the same shape")
    command.add_argument("--max-hours", type=float, metavar="H", help="end in order after so long; --resume goes on")
    command.add_argument("--save-minutes", type=float, metavar="M", help="between two checkpoints (default: 10)")
    command.add_argument("--nice", type=int, metavar="N", help="lower the priority by so much (0 to 19)")
    command.add_argument("--no-packing", dest="packing", action="store_false", help="one example in each row")


def _add_run(command: Parser) -> None:
    command.add_argument(
        "base", nargs="?", metavar="BASE", help="folder or hub name (default: the embedded tiny model)"
    )
    command.add_argument("--data", metavar="FILE", help="rows to learn: a file or folder (see chatglm data check)")
    command.add_argument("--eval", dest="eval_data", metavar="FILE", help="rows to measure on")
    command.add_argument("--out", metavar="DIR", help="folder to write")
    command.add_argument(
        "--config", metavar="FILE", help="settings in yaml; the official lora.yaml, ... are read as well"
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in DIR as if it had not stopped; its settings are known",
    )
    add_columns(command)
    command.add_argument(
        "--skip-bad-rows", action="store_true", default=None, help="leave out rows that cannot be used"
    )
    group = command.add_argument_group("run")
    group.add_argument("--max-steps", type=int, metavar="N", help="updates")
    group.add_argument("--epochs", type=float, metavar="X", help="passes over the data (default: 3)")
    group.add_argument("--learning-rate", type=float, metavar="X", help="the highest (default: what fits the method)")
    group.add_argument("--batch-size", type=int, metavar="N", help="rows of a step on one device (default: 4)")
    group.add_argument("--accumulation", type=int, metavar="N", help="steps that make an update (default: 1)")
    group.add_argument("--max-length", type=int, metavar="N", help="tokens at which a row is cut (default: 2048)")
    group.add_argument(
        "--packing", action="store_true", default=None, help="several examples in each row of that length"
    )
    group.add_argument("--seed", type=int, metavar="N", help="of all that is drawn (default: 42)")
    group.add_argument("--schedule", metavar="NAME", help="linear, cosine, constant, ... (default: linear)")
    group.add_argument("--warmup-steps", type=int, metavar="N", help="in which the rate rises (default: 0)")
    group.add_argument("--weight-decay", type=float, metavar="X", help="(default: 0)")
    group.add_argument("--optimizer", metavar="NAME", help="a name of transformers, such as adamw_bnb_8bit")
    group.add_argument("--save-steps", type=int, metavar="N", help="between two checkpoints (default: 500)")
    group.add_argument("--eval-steps", type=int, metavar="N", help="between two evaluations (default: 500)")
    group.add_argument("--log-steps", type=int, metavar="N", help="between two lines of progress (default: 10)")
    group.add_argument("--keep", type=int, metavar="N", help="checkpoints that are kept (default: 2)")
    group.add_argument(
        "--eval-answers", type=int, metavar="N", help="evaluation rows whose answers are written and compared"
    )
    group = command.add_argument_group("machine")
    add_hub(group)
    add_rope_ratio_meaning(group)
    group.add_argument("--device", metavar="D", help="cpu, cuda, mps (default: the best there is)")
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the base (default: by its size)")
    group.add_argument(
        "--gradient-checkpointing", dest="checkpointing", action="store_true", default=None,
        help="less memory, a third more time",
    )  # fmt: skip
    group.add_argument(
        "--skip-memory-check", action="store_true", default=None, help="begin even where memory seems too small"
    )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    add_language(group)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _finetune(options: argparse.Namespace) -> int:
    return _run(options, {})


def _pretrain(options: argparse.Namespace) -> int:
    defaults = {
        "method": "sft", "packing": True, "schedule": "cosine", "warmup_steps": 100, "save_minutes": 10.0,
        "save_steps": 10**9, "learning_rate": 1.5e-3 if options.fresh else 2e-5, "weight_decay": 0.05,
    }  # fmt: skip
    return _run(options, defaults)


def _run(options: argparse.Namespace, defaults: dict[str, Any]) -> int:
    from chatglm.errors import UsageError
    from chatglm.train.manifest import settings_of
    from chatglm.train.official import Configuration, read_configuration
    from chatglm.train.settings import Settings
    from chatglm.words import choose

    words = choose(options.lang)
    given = {name: value for name, value in vars(options).items() if value is not None and name not in _OURS}
    found = Configuration() if options.config is None else read_configuration(options.config, options.data)
    if "data" in found.settings:
        given.pop("data", None)  # it was the folder of the official file's data
    for note in found.notes:
        sys.stderr.write(words("train_note", note=note) + "\n")
    settings = {**defaults, **found.settings, **given}
    if options.resume and "out" in settings:
        settings = {**settings_of(settings["out"]), **found.settings, **given}
    missing = next((name for name in ("data", "out") if name not in settings), None)
    if missing is not None:
        raise UsageError(f"--{missing} is missing")
    checked = Settings(**settings)
    from chatglm.train.finetune import be_modest, finetune

    be_modest(options.threads, getattr(options, "nice", None))
    result = finetune(checked, words, resume=options.resume)
    name = "train_done" if result.finished else "train_paused"
    if result.first:
        sys.stdout.write(words(name, steps=result.steps, out=result.out) + "\n")
    return 0


def add_merge(commands: Any) -> None:
    command = add_command(
        commands,
        "merge",
        _merge,
        "write a model folder with an adapter inside",
        "Write a model folder with an adapter inside: a LoRA becomes part of the weights, a P-Tuning prefix stands "
        "beside them. Quantize and convert afterwards.",
    )
    command.add_argument("base", metavar="BASE", help="folder or hub name of the model the adapter was made for")
    command.add_argument("adapter", metavar="ADAPTER", help="the folder that finetune wrote, or any LoRA folder")
    command.add_argument("destination", metavar="DST", help="the folder to write; it must not hold a model yet")
    add_hub(command)
    add_rope_ratio_meaning(command)


def _merge(options: argparse.Namespace) -> int:
    from chatglm.train.merge import merge

    given = {"hub": options.hub, "rope_ratio_meaning": options.rope_ratio_meaning}
    sys.stdout.write(f"Wrote {merge(options.base, options.adapter, options.destination, **given)}\n")
    return 0
