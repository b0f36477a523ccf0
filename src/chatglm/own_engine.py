"""The engine a model answers with: the one way from a model and its tokenizer to an `Engine`.

It is made when first needed and kept on the model. It holds keys and values of earlier turns, which are worth nothing
after a training step, a cast, or a change of adapters; so every call compares a fingerprint of the weights and starts
afresh when it differs.
"""

import threading
from collections import defaultdict
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from chatglm.errors import RequestError
from chatglm.model.bare import BareLanguageModel

if TYPE_CHECKING:
    from chatglm.engine.config import EngineConfig
    from chatglm.engine.engine import Engine

_ATTRIBUTE = "_chatglm_engine"
_PEFT_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
_TOKENIZER_HAS = ("render", "stream_parser", "stop_ids", "surface")


class _Kept:
    """An engine on its model, so that both are freed together. Copies and pickles of the model start without one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.engine: Engine | None = None
        self.fingerprint = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()


def engine_for(model: Any, tokenizer: Any, *, draft_model: Any = None, **config: Any) -> "Engine":
    """The engine of a model, with its tokenizer's stop tokens, decoder and texts.

    Without options it is the one `model.chat` answers with: kept on the model, made anew when the weights have
    changed. Its cache has room for one full context, out of at most half the free memory. With options it is another
    one, made for this call, that differs in them alone. A peft wrapper and its base model share one engine.

    Args:
        model: a language model of this package, also wrapped by peft.
        tokenizer: its tokenizer.
        draft_model: a smaller model with the same vocabulary, for requests with `draft="model"`.
        config: fields of `EngineConfig`.

    Raises:
        RequestError: no model or no tokenizer where one is expected, an unknown option, or an adapter that only
            `generate()` follows.
    """
    check_pair(model, tokenizer, "engine_for(model, tokenizer)")
    if (kinds := adapters_beside_modules(model)) is not None:
        raise RequestError(f"the adapter is {kinds}, which an engine cannot follow; call model.chat or generate()")
    network = unwrapped(model)
    kv_dtype = _ready_for_cpu(network)
    if config or draft_model is not None:
        return _engine(network, tokenizer, _config(network, tokenizer, kv_dtype, config), draft_model)
    kept: _Kept = network.__dict__.setdefault(_ATTRIBUTE, _Kept())
    with kept.lock:
        fingerprint = hash((_fingerprint(network), len(tokenizer), tuple(tokenizer.stop_ids)))
        if kept.engine is None or kept.fingerprint != fingerprint:
            kept.engine = None  # frees its cache before the next one is sized
            kept.engine = _engine(network, tokenizer, _config(network, tokenizer, kv_dtype, {}), None)
            kept.fingerprint = fingerprint
        return kept.engine


def add_lora(engine: "Engine", name: str, folder: str | Path) -> None:
    """Have an engine answer requests for the adapter `name` with a LoRA folder.

    Raises:
        CheckpointError: the folder is no plain LoRA adapter of the engine's model.
        RequestError: the name is taken.
    """
    from chatglm.engine.adapters import LowRank
    from chatglm.model.adapters import read_lora

    parts = read_lora(engine.model, folder)
    engine.add_adapter(name, {module: LowRank(*part) for module, part in parts.items()})


def forget_engine(model: Any) -> None:
    """Drop a model's engine and its cache."""
    unwrapped(model).__dict__.pop(_ATTRIBUTE, None)


def check_pair(model: Any, tokenizer: Any, call: str) -> None:
    """Refuse what is no loaded language model, or no tokenizer that fits it; `call` is how it would be right.

    Raises:
        RequestError: what was given, and what would be right.
    """
    from chatglm.engine import parts

    if _is_tokenizer(model) and not _is_tokenizer(tokenizer):
        raise RequestError(f"a tokenizer stands where the model belongs; it must be {call}")
    if not isinstance(model, nn.Module) or not hasattr(model, "config") or not _speaks(model):
        raise RequestError(
            f"model is {_named(model)}; it must be a language model, such as chatglm.load() gives: {call}"
        )
    if not _is_tokenizer(tokenizer):
        raise RequestError(
            f"tokenizer is {_named(tokenizer)}; it must be the model's ChatGLMTokenizer, as chatglm.load() or "
            f"AutoTokenizer gives it: {call}"
        )
    parts.check_loaded(model)
    config: Any = model.config
    rows = int(config.get_text_config().vocab_size)
    if len(tokenizer) > rows:
        raise RequestError(f"the tokenizer has {len(tokenizer)} ids and the model {rows}: it is another model's")


def _speaks(model: nn.Module) -> bool:
    """Whether it is a language model: one that can generate by itself, or the network alone."""
    return hasattr(model, "generate") or isinstance(model, BareLanguageModel)


def unwrapped(model: Any) -> Any:
    """The model in a peft wrapper; any other model is itself."""
    return model.get_base_model() if _is_wrapper(model) else model


def adapters_beside_modules(model: Any) -> str | None:
    """The kind of peft adapter that changes more than the modules it is put into; None for all others.

    Such a wrapper changes what goes into the network, or chooses for each text what its modules do: virtual tokens, a
    prefix, a router. Only its own `generate()` follows it.
    """
    if not _is_wrapper(model) or model._adapters_disabled:
        return None
    configs = [model.peft_config[name] for name in model.active_adapters]
    beside = [config for config in configs if _beside_modules(config)]
    if not beside and not _drives_itself(model.base_model):
        return None
    return " and ".join(sorted({str(getattr(c.peft_type, "value", c.peft_type)) for c in beside or configs}))


def _is_wrapper(model: Any) -> bool:
    """Whether it is peft's wrapper, and not a model with peft layers."""
    return hasattr(type(model), "get_base_model")


def _beside_modules(config: Any) -> bool:
    return bool(
        config.is_prompt_learning
        or getattr(config, "is_adaption_prompt", False)
        or getattr(config, "alora_invocation_tokens", None)
    )


def _drives_itself(tuner: Any) -> bool:
    """Whether a peft tuner does more in a forward pass than calling the model (or adding to the loss, as AdaLoRA)."""
    from peft.tuners.adalora import AdaLoraModel
    from peft.tuners.tuners_utils import BaseTuner

    if not isinstance(tuner, BaseTuner) or isinstance(tuner, AdaLoraModel):
        return False
    return type(tuner).forward is not BaseTuner.forward


def _engine(model: Any, tokenizer: Any, config: "EngineConfig", draft_model: Any) -> "Engine":
    from chatglm.engine.engine import Engine
    from chatglm.model.stream_decoder import StreamDecoder

    return Engine(
        model,
        config,
        new_decoder=lambda: StreamDecoder(tokenizer),
        token_texts=partial(token_texts, tokenizer),
        draft_model=draft_model,
    )


def _config(model: Any, tokenizer: Any, kv_dtype: str, changed: dict[str, Any]) -> "EngineConfig":
    from chatglm.engine.config import EngineConfig
    from chatglm.engine.memory import context_memory

    known = {field.name for field in fields(EngineConfig)}
    if unknown := sorted(set(changed) - known):
        raise RequestError(f"engine_for has no options {unknown}; it takes draft_model and {', '.join(sorted(known))}")
    usual: dict[str, Any] = {
        "num_tokens": len(tokenizer),
        "stop_token_ids": tuple(tokenizer.stop_ids),
        "kv_memory": context_memory(model),
        "kv_dtype": kv_dtype,
        "max_running": 8,
    }
    return EngineConfig(**(usual | changed))


def _ready_for_cpu(model: Any) -> str:
    """Lay quantized layers out for the CPU kernels, where these can be used -> the dtype for keys and values.

    A quantized model computes in float32 there; its keys and values take half of that, as in the official code.
    """
    from chatglm import native
    from chatglm.quant.fused import fuse

    if model.device.type != "cpu" or not native.available():
        return "model"
    fused = fuse(model)
    return "float16" if fused and model.dtype == torch.float32 else "model"


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


def _is_tokenizer(value: Any) -> bool:
    return not isinstance(value, nn.Module) and all(hasattr(value, name) for name in _TOKENIZER_HAS)


def _named(value: Any) -> str:
    return f"{value!r:.80}" if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
