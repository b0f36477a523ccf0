"""The engine a model answers with, made when it is first needed and kept on the model.

It holds keys and values of earlier turns, which are worth nothing after a training step, a cast, or a change of
adapters; so every call compares a fingerprint of the weights and starts afresh when it differs.
"""

import threading
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from chatglm.engine.engine import Engine

_ATTRIBUTE = "_chatglm_engine"
_PEFT_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")


class _Kept:
    """An engine on its model, so that both are freed together. Copies and pickles of the model start without one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.engine: Engine | None = None
        self.fingerprint = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()


def engine_for(model: Any, tokenizer: Any) -> "Engine":
    """The engine that answers for a model; a new one when the weights have changed since the last call.

    Its cache has room for one full context, out of at most half the free memory. A peft wrapper and its base model
    share one engine.
    """
    from chatglm.engine.config import EngineConfig
    from chatglm.engine.engine import Engine
    from chatglm.engine.memory import context_memory

    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    kv_dtype = _ready_for_cpu(model)
    kept: _Kept = model.__dict__.setdefault(_ATTRIBUTE, _Kept())
    with kept.lock:
        num_tokens = len(tokenizer)
        fingerprint = hash((_fingerprint(model), num_tokens))
        if kept.engine is None or kept.fingerprint != fingerprint:
            kept.engine = None  # frees its cache before the next one is sized
            config = EngineConfig(
                num_tokens=num_tokens, kv_memory=context_memory(model), kv_dtype=kv_dtype, max_running=8
            )
            kept.engine = Engine(model, config, token_texts=partial(token_texts, tokenizer))
            kept.fingerprint = fingerprint
        return kept.engine


def _ready_for_cpu(model: Any) -> str:
    """Let the CPU kernels run whole layers where they can -> the dtype for keys and values.

    A quantized model computes in float32 there; its keys and values take half of that, as in the official code.
    """
    from chatglm import native
    from chatglm.quant.fused import fuse

    if model.device.type != "cpu" or not native.available():
        return "model"
    fused = fuse(model)
    return "float16" if fused and model.dtype == torch.float32 else "model"


def forget_engine(model: Any) -> None:
    """Drop a model's engine and its cache."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.__dict__.pop(_ATTRIBUTE, None)


def token_texts(tokenizer: Any) -> list[bytes]:
    """The bytes each id adds to a text; none for special tokens."""
    special = set(tokenizer.special_tokens.values()) | set(tokenizer.tokenizer.special_tokens.values())

    def text(token_id: int) -> bytes:
        surface = tokenizer.surface(token_id)
        return bytes([surface]) if isinstance(surface, int) else str(surface).replace("\u2581", " ").encode()

    return [b"" if token_id in special else text(token_id) for token_id in range(len(tokenizer))]


def _fingerprint(model: Any) -> int:
    """Changes with the weights: which tensors there are, how often each was written, samples of their values (writes
    through `.data` are not counted by torch), and the state of peft layers."""
    tensors = (*model.parameters(), *model.buffers())
    written = [(id(t), t.data_ptr(), t.dtype, t.device, 0 if t.is_inference() else t._version) for t in tensors]
    peft = [
        repr([getattr(module, name) for name in _PEFT_STATE if hasattr(module, name)])
        for module in model.modules()
        if hasattr(module, "disable_adapters")
    ]
    return hash((tuple(written), tuple(peft), _sample(tensors)))


@torch.no_grad()
def _sample(tensors: tuple[Tensor, ...], count: int = 8) -> tuple[float, ...]:
    """A few values of every tensor; one transfer for each device."""
    picked: dict[torch.device, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.device.type != "meta" and tensor.numel():
            flat = tensor.detach().reshape(-1)
            picked[tensor.device].append(flat[:: max(1, flat.numel() // count)][:count].float())
    return tuple(value for parts in picked.values() for value in torch.cat(parts).tolist())
