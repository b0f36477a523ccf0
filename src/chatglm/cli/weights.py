"""`chatglm info`, `convert`, `quantize` and `perplexity`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from chatglm.cli.options import add_loading, add_rope_ratio_meaning
from chatglm.cli.parser import add_command
from chatglm.cli.weight_commands import GGUF_DTYPES, add_perplexity_arguments, add_quantize_arguments


def add_info(commands: Any) -> None:
    command = add_command(
        commands, "info", _info, "tell what the model in a folder is: variant, size, context, memory needs"
    )
    command.add_argument("folder", metavar="FOLDER", help="a model folder")


def _info(options: argparse.Namespace) -> int:
    from chatglm.folders.describe import info_text

    sys.stdout.write(info_text(options.folder).rstrip("\n") + "\n")
    return 0


def add_convert(commands: Any) -> None:
    command = add_command(commands, "convert", _convert, "rewrite a model folder in another layout")
    command.add_argument("source", metavar="SRC", help="the model folder to read")
    command.add_argument("destination", metavar="DST", help="the folder to write; it must not hold a model yet")
    command.add_argument(
        "--to",
        required=True,
        choices=("glm", "official", "gguf"),
        help="glm: stock GlmForCausalLM of transformers; official: the names and fusions of the official files; gguf: "
        "one file for llama.cpp",
    )
    command.add_argument("--dtype", choices=GGUF_DTYPES, help="number format of a gguf file (default: f16)")
    add_rope_ratio_meaning(command)


def _convert(options: argparse.Namespace) -> int:
    from chatglm.cli.weight_commands import run_gguf
    from chatglm.errors import ConfigError
    from chatglm.folders.describe import convert

    if options.to == "gguf":
        return run_gguf(options)
    if options.dtype is not None:
        raise ConfigError("--dtype is for --to gguf; the other layouts keep the stored number format")
    meaning = options.rope_ratio_meaning
    folder = convert(options.source, options.destination, to=options.to, rope_ratio_meaning=meaning)
    sys.stdout.write(f"Wrote {folder}\n")
    return 0


def add_quantize(commands: Any) -> None:
    command = add_command(
        commands,
        "quantize",
        _quantize,
        "write a model folder with smaller weights",
        "Write a model folder with 4-bit or 8-bit weights, layer by layer: memory holds one layer at a time. "
        "docs/quantization.md tells what each scheme costs and loses.",
    )
    add_quantize_arguments(command)
    add_rope_ratio_meaning(command)


def _quantize(options: argparse.Namespace) -> int:
    from chatglm.cli.weight_commands import run_quantize

    return run_quantize(options)


def add_perplexity(commands: Any) -> None:
    command = add_command(commands, "perplexity", _perplexity, "tell how well a model foresees a text")
    add_perplexity_arguments(command)
    add_loading(command)


def _perplexity(options: argparse.Namespace) -> int:
    from chatglm.cli.weight_commands import run_perplexity

    names = ("dtype", "device", "quantize", "hub", "adapter", "prefix", "rope_ratio_meaning")
    cache = False if options.no_cache else None
    return run_perplexity(options, cache=cache, **{name: getattr(options, name) for name in names})
