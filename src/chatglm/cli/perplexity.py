"""`chatglm perplexity`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from chatglm.cli.options import add_loading
from chatglm.cli.parser import add_command


def add_perplexity(commands: Any) -> None:
    command = add_command(commands, "perplexity", _perplexity, "tell how well a model foresees a text")
    command.add_argument("--model", metavar="M", help="folder or hub name (default: the embedded tiny model)")
    command.add_argument("--text", metavar="FILE", required=True, help="the text to score, in UTF-8")
    command.add_argument("--context", type=int, metavar="N", help="tokens of a window (default: 2048, or the model's)")
    command.add_argument(
        "--stride", type=int, metavar="N", help="tokens by which the window moves (default: a whole window)"
    )
    add_loading(command)


def _perplexity(options: argparse.Namespace) -> int:
    from chatglm.evaluate.perplexity import perplexity, read_text, report
    from chatglm.loading import load_as
    from chatglm.progress import progress_line

    text = read_text(options.text)
    model, tokenizer = load_as(options)
    context = min(2048, model.config.max_position_embeddings) if options.context is None else options.context
    step = progress_line()
    progress = None if step is None else lambda done, total: step("tokens", done, total)
    sys.stdout.write(report(options.text, perplexity(model, tokenizer, text, context, options.stride, progress)))
    return 0
