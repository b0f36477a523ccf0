"""`chatglm web`."""

from __future__ import annotations

import argparse
from typing import Any

from chatglm.cli.options import TIERS, add_language, add_loading, add_server
from chatglm.cli.parser import add_command


def add_web(commands: Any) -> None:
    command = add_command(
        commands,
        "web",
        _web,
        "talk to a model in the browser",
        "Talk to a model in the browser: chat, tools and the code interpreter in one page. The model is loaded before "
        "the address is written, to standard error.",
    )
    command.add_argument(
        "model", nargs="?", metavar="MODEL", help="folder or hub name (default: the embedded tiny model)"
    )
    group = command.add_argument_group("address")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen at (default: this machine only)"
    )
    group.add_argument("--port", type=int, default=7870, metavar="P", help="port (default: 7870; 0: any that is free)")
    group.add_argument("--allow-host", action="append", metavar="NAME", help="a name this server is known under")
    group.add_argument("--auth-file", metavar="FILE", help="who may come in: lines of name:password")
    group = command.add_argument_group("the page")
    group.add_argument(
        "--ui", choices=("gradio", "streamlit"), default="gradio", help="what draws the page (default: gradio)"
    )
    group.add_argument(
        "--tools",
        action="append",
        metavar="WHICH",
        help="tools of the tool mode, named as for chatglm chat (default: calculator,current_time)",
    )
    group.add_argument("--no-code", action="store_true", help="no code interpreter")
    group.add_argument("--tier", choices=TIERS[:-1], help="how code is isolated (default: the strongest there is)")
    group.add_argument(
        "--conversations",
        metavar="FOLDER",
        help="where conversations are kept (default: chatglm/conversations under XDG_DATA_HOME or ~/.local/share)",
    )
    add_language(group)
    add_server(command)
    add_loading(command)


def _web(options: argparse.Namespace) -> int:
    from chatglm.web.run import start_web

    return start_web(options)
