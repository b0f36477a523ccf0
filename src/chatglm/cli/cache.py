"""`chatglm cache`: the quantized copies that loading keeps."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from chatglm.cli.parser import add_command


def add_cache(commands: Any) -> None:
    command = add_command(
        commands,
        "cache",
        _cache,
        "list or remove the quantized copies that --quantize keeps",
        "List or remove the quantized copies that --quantize keeps, in $XDG_CACHE_HOME/chatglm.",
    )
    command.add_argument(
        "what", metavar="ACTION", choices=("list", "clear"), help="list: what is kept; clear: remove all of it"
    )


def _cache(options: argparse.Namespace) -> int:
    from time import localtime, strftime

    from chatglm import copies

    if options.what == "clear":
        sys.stdout.write(f"Removed {copies.size_text(copies.clear())} from {copies.cache_folder()}\n")
        return 0
    found = copies.copies()
    for copy in found:
        date = strftime("%Y-%m-%d", localtime(copy.created))
        sys.stdout.write(
            f"{copies.size_text(copy.num_bytes):>9}  {copy.scheme.name:14}  {date}  {copy.source}  {copy.folder}\n"
        )
    sys.stdout.write(f"{copies.size_text(sum(copy.num_bytes for copy in found)):>9} in {copies.cache_folder()}\n")
    return 0
