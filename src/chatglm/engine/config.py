"""What an engine may use."""

from collections.abc import Sequence
from dataclasses import dataclass

from chatglm.errors import RequestError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine may use.

    Args:
        num_tokens: ids from here on have no text and are never chosen (None: every row of the output layer may be).
        stop_token_ids: end every answer unless the request says `ignore_eos`.
        block_size: tokens per cache block.
        kv_memory: bytes for keys and values (None: a quarter of free memory, nine tenths on a GPU).
        kv_dtype: "model", or "int8": half the memory of fp16 for a small loss (docs/architecture.md has it measured).
        max_batch_tokens: tokens per step; a longer prompt is run in pieces of this size.
        max_running: requests generating at once.
        prefix_cache: find again what was computed for an earlier text with the same beginning.
        attention: "sdpa", or "reference": slow and readable.
    """

    num_tokens: int | None = None
    stop_token_ids: Sequence[int] = ()
    block_size: int = 16
    kv_memory: int | None = None
    kv_dtype: str = "model"
    max_batch_tokens: int = 512
    max_running: int = 64
    prefix_cache: bool = True
    attention: str = "sdpa"

    def __post_init__(self) -> None:
        for name in ("block_size", "max_batch_tokens", "max_running"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise RequestError(f"{name} is {value!r}; it must be a whole number of at least 1")
        for name, allowed in (("kv_dtype", ("model", "int8")), ("attention", ("sdpa", "reference"))):
            if getattr(self, name) not in allowed:
                raise RequestError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
