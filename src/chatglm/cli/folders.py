"""`chatglm info`, `convert` and `quantize`: the commands about model folders."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from chatglm.cli.options import add_hub, add_rope_ratio_meaning
from chatglm.cli.parser import add_command
from chatglm.errors import UsageError

GGUF_DTYPES = ("f16", "f32", "bf16", "q8_0", "q4_0")
ROUNDINGS = ("nearest", "mse", "gptq")
_FULL = 16  # how the command line says "leave it as it is"


def add_info(commands: Any) -> None:
    command = add_command(commands, "info", _info, "tell what a model is: variant, size, context, memory needs")
    command.add_argument("models", metavar="MODEL", nargs="+", help="folder or hub name")
    command.add_argument("--compare", action="store_true", help="show two or more models side by side, row by row")
    add_hub(command)


def _info(options: argparse.Namespace) -> int:
    if options.compare:
        return _compare(options)
    if len(options.models) > 1:
        raise UsageError(f"{len(options.models)} models are given; --compare shows them side by side")
    from chatglm.folders.describe import info_text

    sys.stdout.write(info_text(options.models[0], hub=options.hub).rstrip("\n") + "\n")
    return 0


def _compare(options: argparse.Namespace) -> int:
    if len(options.models) < 2:
        raise UsageError("one model is given; --compare needs two or more")
    from chatglm.folders.compare import compare_text

    sys.stdout.write(compare_text(options.models, hub=options.hub) + "\n")
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
    from chatglm.errors import ConfigError
    from chatglm.folders.convert import convert

    if options.to == "gguf":
        return _gguf(options)
    if options.dtype is not None:
        raise ConfigError("--dtype is for --to gguf; the other layouts keep the stored number format")
    meaning = options.rope_ratio_meaning
    folder = convert(options.source, options.destination, to=options.to, rope_ratio_meaning=meaning)
    sys.stdout.write(f"Wrote {folder}\n")
    return 0


def _gguf(options: argparse.Namespace) -> int:
    """`chatglm convert SRC DST --to gguf [--dtype D]`."""
    from chatglm.folders.gguf import to_gguf
    from chatglm.progress import progress_line

    step = progress_line()
    progress = None if step is None else lambda done, total: step("tensors", done, total)
    meaning = options.rope_ratio_meaning
    dtype = options.dtype or "f16"
    file = to_gguf(options.source, options.destination, dtype=dtype, rope_ratio_meaning=meaning, progress=progress)
    sys.stdout.write(f"Wrote {file}\n")
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
    _add_scheme(command)
    add_rope_ratio_meaning(command)


def _add_scheme(command: Any) -> None:
    """The options of `chatglm quantize`."""
    command.add_argument("source", metavar="SRC", help="the model folder to read, with full weights")
    command.add_argument("destination", metavar="DST", help="the folder to write; it must not hold a model yet")
    command.add_argument("--bits", type=int, choices=(4, 8), default=4, help="bits per weight (default: 4)")
    command.add_argument(
        "--group-size",
        type=int,
        choices=(0, 32, 64, 128),
        help="columns that share a scale; 0: one scale a row (default: 32 for 4 bits, 0 for 8 bits and official files)",
    )
    command.add_argument(
        "--format",
        choices=("native", "official"),
        default="native",
        help="native: every scheme, read by this package; official: the INT4 and INT8 files of the releases "
        "(default: native)",
    )
    command.add_argument("--asymmetric", action="store_true", help="a zero point for every group of 4-bit weights")
    command.add_argument(
        "--head-bits",
        type=int,
        choices=(4, 8, 16),
        help="bits of the output layer; 16: as it is (default: 8 in native)",
    )
    command.add_argument(
        "--embedding-bits", type=int, choices=(8, 16), help="bits of the embedding; 16: as it is (default: 8 in native)"
    )
    command.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="PATTERN",
        help="layers to leave as they are, such as '*.layers.0.*'",
    )
    _add_calibration(command.add_argument_group("rounding"))


def _add_calibration(group: Any) -> None:
    group.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        help="nearest; mse: scales of least error; gptq: errors made up for, needs --calibrate "
        "(default: gptq with --calibrate, else nearest)",
    )
    group.add_argument("--calibrate", metavar="FILE", help="text, in UTF-8, like what the model will be used for")
    group.add_argument("--sequences", type=int, metavar="N", help="pieces of the text to use (default: 64)")
    group.add_argument("--sequence-length", type=int, metavar="N", help="tokens of each (default: 512)")
    group.add_argument("--device", metavar="D", help="where to calibrate (default: cpu)")


def _quantize(options: argparse.Namespace) -> int:
    """`chatglm quantize`."""
    from chatglm.errors import ConfigError
    from chatglm.evaluate.perplexity import read_text
    from chatglm.folders.quantize import quantize_folder
    from chatglm.progress import progress_line
    from chatglm.quant.scheme import QuantScheme

    native = options.format == "native"
    size = options.group_size if options.group_size is not None else 32 if native and options.bits == 4 else 0
    scheme = QuantScheme(
        options.bits,
        size or None,
        not options.asymmetric,
        _bits(options.head_bits, native),
        _bits(options.embedding_bits, native),
        tuple(options.skip),
    )
    given = {
        "--sequences": options.sequences, "--sequence-length": options.sequence_length, "--device": options.device,
    }  # fmt: skip
    if options.calibrate is None and (unused := [name for name, value in given.items() if value is not None]):
        raise ConfigError(f"{unused[0]} is for calibrating; give --calibrate FILE too")
    names = {"sequences": options.sequences, "length": options.sequence_length, "device": options.device}
    text = None if options.calibrate is None else read_text(options.calibrate)
    folder = quantize_folder(
        options.source,
        options.destination,
        scheme,
        format=options.format,
        method=options.rounding or ("nearest" if text is None else "gptq"),
        text=text,
        rope_ratio_meaning=options.rope_ratio_meaning,
        progress=progress_line(),
        **{name: value for name, value in names.items() if value is not None},
    )
    sys.stdout.write(f"Wrote {folder}\n")
    return 0


def _bits(asked: int | None, native: bool) -> int | None:
    if asked is None:
        return 8 if native else None
    return None if asked == _FULL else asked
