"""What an engine may use."""

from collections.abc import Sequence
from dataclasses import dataclass

from chatglm.engine.request import whole
from chatglm.errors import RequestError

MOST_THREADS = 1024  # of the native kernels
KV_DTYPE_NAMES = ("model", "float16", "bfloat16", "float32", "int8")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine may use.

    Args:
        num_tokens: ids from here on have no text and are never chosen (None: every row of the output layer may be).
        stop_token_ids: end every answer unless the request says `ignore_eos`; None: those the model's generation
            configuration or configuration names.
        block_size: tokens per cache block.
        kv_memory: bytes for keys and values (None: a quarter of free memory; on a GPU nearly all that a step of the
            largest shape leaves).
        kv_dtype: "model"; "float16", "bfloat16", "float32": converted when written and when read; or "int8": half the
            memory of fp16 for a small loss (docs/architecture.md has it measured).
        max_batch_tokens: tokens per step; a longer prompt is run in pieces of this size. None: 512 on a CPU; on a GPU
            as many as keep its matrix units busy and fit beside the weights, up to 8192.
        max_prompt_tokens: tokens of prompts in a step in which others are being answered, lest a long prompt holds
            them up; None: 64 on a CPU, where 512 may take seconds, and 2048 on a GPU.
        max_running: requests generating at once.
        prefix_cache: find again what was computed for an earlier text with the same beginning.
        attention: which paged attention (see `fillings.py`); "auto": the best one there is for this cache.
        num_threads: threads of torch and of the native kernels during a step; None: as they are set. Where the kernels
            compute all large products (packed weights), torch has one thread meanwhile: see `threads.py`.
        static_decode: run decode steps with fixed shapes, padded to a few batch sizes; None: on a GPU.
        capture: record such steps as CUDA graphs (on a GPU).
        compile: pass such steps through `torch.compile`.
        run_ahead: begin a decode step before the tokens of the last one have been read, so that the device need not
            wait for Python; None: with `static_decode` on a GPU. Answers are the same.
    """

    num_tokens: int | None = None
    stop_token_ids: Sequence[int] | None = None
    block_size: int = 16
    kv_memory: int | None = None
    kv_dtype: str = "model"
    max_batch_tokens: int | None = None
    max_prompt_tokens: int | None = None
    max_running: int = 64
    prefix_cache: bool = True
    attention: str = "auto"
    num_threads: int | None = None
    static_decode: bool | None = None
    capture: bool = True
    compile: bool = False
    run_ahead: bool | None = None

    def __post_init__(self) -> None:
        for name in ("block_size", "max_running"):
            if not whole(getattr(self, name), 1):
                raise RequestError(f"{name} is {getattr(self, name)!r}; it must be a whole number of at least 1")
        for name in ("num_tokens", "kv_memory", "max_prompt_tokens", "max_batch_tokens"):
            if getattr(self, name) is not None and not whole(getattr(self, name), 1):
                raise RequestError(
                    f"{name} is {getattr(self, name)!r}; it must be None or a whole number of at least 1"
                )
        if self.num_threads is not None and not (whole(self.num_threads, 1) and self.num_threads <= MOST_THREADS):
            raise RequestError(
                f"num_threads is {self.num_threads!r}; it must be None or a whole number from 1 to {MOST_THREADS}"
            )
        if self.kv_dtype not in KV_DTYPE_NAMES:
            raise RequestError(f"kv_dtype is {self.kv_dtype!r}; it must be one of {', '.join(KV_DTYPE_NAMES)}")
        for name in ("compile", "run_ahead"):
            if getattr(self, name) and self.static_decode is False:
                raise RequestError(f"{name} is for steps with fixed shapes, and static_decode is False")
