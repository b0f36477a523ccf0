"""How well a model foretells a text: the number by which quantized weights are compared.

A sliding window (as in huggingface.co/docs/transformers/perplexity): each token is scored once, in the window in which
it has the longest context, and every window begins with `[gMASK] sop`, as every input of the model does.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm.errors import ConfigError, GenerationError

_LOGITS_AT_ONCE = 256  # positions; of 65,024 logits each, 67 MB in float32
Progress = Callable[[int, int], None]  # tokens scored so far, tokens in all


@dataclass(frozen=True)
class Perplexity:
    """What a model made of a text.

    Args:
        loss: mean of -log p(token), natural logarithm.
        tokens: how many were scored.
        bytes: of the text in UTF-8.
        windows: how many forward passes it took.
    """

    loss: float
    tokens: int
    bytes: int
    windows: int

    @property
    def value(self) -> float:
        """exp(loss): the perplexity for one token. Comparable between models of one vocabulary."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits it takes to write down a byte of the text; comparable between vocabularies."""
        return self.loss * self.tokens / math.log(2) / self.bytes


def perplexity(
    model: Any,
    tokenizer: Any,
    text: str,
    context: int = 2048,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """The perplexity of a text.

    Args:
        model: as `chatglm.load` gives it, or any transformers model of this family.
        context: tokens of a window, `[gMASK] sop` included.
        stride: text tokens by which the window moves; small ones give more context and take longer. Default: windows
            without overlap.
        progress: called after each window.

    Raises:
        ConfigError: a text without tokens, or sizes that leave no room. GenerationError: NaN or infinity came out.
    """
    prefix: list[int] = tokenizer.get_prefix_tokens()
    room = context - len(prefix)
    step = room if stride is None else stride
    _check_sizes(model, context, len(prefix), step)
    ids: list[int] = tokenizer.encode_text(text, plain=True)
    if not ids:
        raise ConfigError("the text has no tokens; perplexity needs at least one")
    total, scored, windows = 0.0, 0, 0
    for start, first, stop in _windows(len(ids), room, step):
        losses = _losses(model, [*prefix, *ids[start:stop]], len(prefix) + first - start)
        total, scored, windows = total + float(losses.double().sum()), scored + len(losses), windows + 1
        if not math.isfinite(total):
            raise GenerationError(f"the model gives NaN or infinity for tokens {first} to {stop} of the text")
        if progress is not None:
            progress(scored, len(ids))
    return Perplexity(total / scored, scored, len(text.encode()), windows)


def read_text(path: str | Path) -> str:
    """A text file in UTF-8.

    Raises:
        ConfigError: it cannot be read, is no UTF-8, or is empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"the text file {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the text file {str(path)!r} is not UTF-8: {error}") from error
    if not text.strip():
        raise ConfigError(f"the text file {str(path)!r} is empty; give one with text")
    return text


def report(path: str | Path, result: Perplexity) -> str:
    """The result as lines to print."""
    return (
        f"{path}: {result.tokens:,} tokens, {result.bytes:,} bytes, {result.windows:,} windows\n"
        f"perplexity     {result.value:.4f}\n"
        f"bits per byte  {result.bits_per_byte:.4f}\n"
    )


def _windows(length: int, room: int, step: int) -> Iterator[tuple[int, int, int]]:
    """(start, first token not scored before, stop) of each window."""
    scored = 0
    for start in range(0, length, step):
        stop = min(start + room, length)
        yield start, scored, stop
        scored = stop
        if stop == length:
            return


@torch.inference_mode()
def _losses(model: Any, ids: list[int], first: int) -> Tensor:
    """-log p of the ids from the one at `first` on, float32."""
    row = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
    states = model.base_model(input_ids=row, use_cache=False).last_hidden_state[0, first - 1 : -1]
    head, parts = model.get_output_embeddings(), []
    for part, wanted in zip(states.split(_LOGITS_AT_ONCE), row[0, first:].split(_LOGITS_AT_ONCE), strict=True):
        parts.append(torch.nn.functional.cross_entropy(head(part).float(), wanted, reduction="none"))
    return torch.cat(parts)


def _check_sizes(model: Any, context: int, prefix: int, step: int) -> None:
    longest = model.config.max_position_embeddings
    if not prefix < context <= longest:
        raise ConfigError(f"context is {context}; it must be from {prefix + 1} to {longest}, the model's own")
    if not 1 <= step <= context - prefix:
        raise ConfigError(f"stride is {step}; it must be from 1 to {context - prefix}, the text that fits in a window")
