"""How well a model foretells a text: the number by which quantized weights are compared.

A sliding window (as in huggingface.co/docs/transformers/perplexity): each token is scored once, in the window in which
it has the longest context, and every window begins with `[gMASK] sop`, as every input of the model does.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm.errors import ConfigError, GenerationError

_AT_ONCE = 4  # windows computed together: while one is at its end, the step is filled up with the next
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
    windows = list(_windows(len(ids), room, step))
    total, scored = 0.0, 0
    for losses in _losses(model, prefix, ids, windows):
        total, scored = total + math.fsum(losses), scored + len(losses)
        if not math.isfinite(total):
            raise GenerationError(f"the model finds one of the first {scored} tokens of the text impossible")
        if progress is not None:
            progress(scored, len(ids))
    return Perplexity(total / scored, scored, len(text.encode()), len(windows))


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


_Window = tuple[int, int, int]


def _windows(length: int, room: int, step: int) -> Iterator[_Window]:
    """(start, first token not scored before, stop) of each window."""
    scored = 0
    for start in range(0, length, step):
        stop = min(start + room, length)
        yield start, scored, stop
        scored = stop
        if stop == length:
            return


def _losses(model: Any, prefix: list[int], ids: list[int], windows: list[_Window]) -> Iterator[list[float]]:
    """-log p of the tokens that each window is the first to score; a few windows are computed at once."""
    from chatglm.engine.config import EngineConfig
    from chatglm.engine.engine import Engine
    from chatglm.engine.memory import memory_for

    longest = len(prefix) + max(stop - start for start, _, stop in windows)
    memory = _AT_ONCE * memory_for(model, longest)
    engine = Engine(model, EngineConfig(kv_memory=memory, max_running=_AT_ONCE, prefix_cache=False))
    for index in range(0, len(windows), _AT_ONCE):
        group = windows[index : index + _AT_ONCE]
        pairs = [([*prefix, *ids[start:first]], ids[first:stop]) for start, first, stop in group]
        try:
            yield from ([-value for value in score.token_logprobs] for score in engine.score_many(pairs))
        except GenerationError as error:
            raise GenerationError(f"tokens {group[0][1]} to {group[-1][2]} of the text: {error}") from None


def _check_sizes(model: Any, context: int, prefix: int, step: int) -> None:
    longest = model.config.max_position_embeddings
    if not prefix < context <= longest:
        raise ConfigError(f"context is {context}; it must be from {prefix + 1} to {longest}, the model's own")
    if not 1 <= step <= context - prefix:
        raise ConfigError(f"stride is {step}; it must be from 1 to {context - prefix}, the text that fits in a window")
