"""Gradio's root of a page, but no value names a file that was not uploaded here.

A program may send any path or address as the file of any component. Gradio copies what it names, or fetches it, before
a handler is called; whether it may, it asks only where its own `launch` has started the page, and of addresses never.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from chatglm.errors import UsageError


def blocks(uploads: Path, **options: Any) -> Any:
    """`gradio.Blocks(**options)` that takes files of one folder only.

    Args:
        uploads: where Gradio puts what is uploaded.
    """
    import gradio as gr

    class Blocks(gr.Blocks):  # type: ignore[misc, unused-ignore]
        async def preprocess_data(self, block_fn: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            try:
                check_files(inputs, uploads)
            except UsageError as error:
                raise gr.Error(html.escape(str(error)), print_exception=False) from None
            return await super().preprocess_data(block_fn, inputs, *more, **named)

    made = Blocks(**options)
    made.has_launched = True  # so that Gradio's own check is done as well
    return made


def check_files(values: Any, uploads: Path) -> None:
    """Looks through what a browser has sent for an event.

    Raises:
        UsageError: somewhere in it stands a file that is not of that folder.
    """
    waiting, folder = [values], uploads.resolve()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
            if "path" in value and not _is_inside(value["path"], folder):
                raise UsageError(f"{value['path']!r:.100} was not uploaded")
        elif isinstance(value, (list, tuple)):
            waiting += value


def _is_inside(path: Any, folder: Path) -> bool:
    try:
        return isinstance(path, str) and Path(path).resolve().is_relative_to(folder)
    except (OSError, ValueError):  # a loop of links, a path no system has
        return False
