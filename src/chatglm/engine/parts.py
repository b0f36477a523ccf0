"""What an engine is put together from, by what it is given."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from chatglm.engine.ahead import RunAhead
from chatglm.engine.cache import KVCache
from chatglm.engine.config import EngineConfig
from chatglm.engine.draft import DraftModel
from chatglm.engine.memory import cache_shape, tokens_of_a_step
from chatglm.engine.runner import ModelRunner
from chatglm.engine.scheduler import Scheduler
from chatglm.errors import RequestError


def check(model: object, config: object) -> None:
    """Raise `RequestError` for what is no network, or no configuration."""
    if not hasattr(getattr(model, "config", None), "max_position_embeddings") or not hasattr(model, "forward"):
        raise RequestError(f"model is a {type(model).__name__}; it must be a network, such as chatglm.load gives")
    check_loaded(model)
    if config is not None and not isinstance(config, EngineConfig):
        raise RequestError(
            f"config is a {type(config).__name__}; it must be an EngineConfig or None "
            "(chatglm.engine_for(model, tokenizer) makes an engine that knows its tokenizer)"
        )


def whole_prompts(model: Any) -> bool:
    """Whether a network's prompts see themselves both ways, as those of ChatGLM-6B: they are run whole, and what was
    computed of one is worth nothing to another that begins alike."""
    return hasattr(model, "paged_positions")


def config_for(model: Any, config: EngineConfig | None) -> EngineConfig:
    """The configuration, with what the network cannot do taken out of it.

    Raises:
        RequestError: it asks for that.
    """
    config = config or EngineConfig()
    batch_tokens = config.max_batch_tokens or tokens_of_a_step(model)
    config = replace(config, max_batch_tokens=batch_tokens)
    if not whole_prompts(model):
        return config
    asked = [name for name in ("static_decode", "compile", "run_ahead") if getattr(config, name)]
    asked += ["attention"] if config.attention not in ("auto", "prefix_lm") else []
    if asked:
        raise RequestError(f"{', '.join(asked)} cannot be used with ChatGLM-6B: its prompts see themselves both ways")
    most = int(model.config.max_position_embeddings) + config.max_running
    tokens = max(most, batch_tokens)
    changed: dict[str, Any] = {"max_batch_tokens": tokens, "max_prompt_tokens": tokens, "attention": "prefix_lm"}
    return replace(config, prefix_cache=False, static_decode=False, **changed)


def check_loaded(model: Any) -> None:
    """Raise `RequestError` where the weights hold no numbers, and nothing brings them."""
    if getattr(model, "device", None) == torch.device("meta"):
        raise RequestError(
            "the model is on the device 'meta': its weights have shapes and no numbers. Load it, by chatglm.load() or "
            "from_pretrained()"
        )


def stop_ids_of(model: Any) -> Sequence[int]:
    """The ids at which a model's answers end by its own word, those of its vocabulary."""
    for config in (getattr(model, "generation_config", None), model.config):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return [one for one in ([ids] if isinstance(ids, int) else ids) if 0 <= one < model.config.vocab_size]
    return []


def new_cache(model: Any, blocks: int, block_size: int, stored: torch.dtype) -> KVCache:
    """Room for the keys and values of a network."""
    layers, heads, head_dim = cache_shape(model)
    return KVCache(layers, blocks * block_size, heads, head_dim, model.dtype, model.device, stored=stored)


def run_ahead_for(runner: ModelRunner, scheduler: Scheduler, config: EngineConfig, context: int) -> RunAhead | None:
    """Set up steps with fixed shapes, and running ahead, where they are wanted."""
    on_gpu = runner.device.type == "cuda"
    static = config.static_decode
    if static is None:
        static = config.compile or bool(config.run_ahead) or (on_gpu and runner.filling.decode is not None)
    if not static:
        return None
    blocks = scheduler.blocks
    most_blocks = min(blocks.num_blocks, blocks.blocks_for(context))
    runner.use_static_decode(scheduler.max_running, most_blocks, config.capture, config.compile)
    ahead = on_gpu if config.run_ahead is None else config.run_ahead
    return RunAhead(runner, scheduler) if ahead else None


def draft_model_for(runner: ModelRunner, draft_model: Any, blocks: int, config: EngineConfig) -> DraftModel | None:
    """A draft model beside the one of `runner`, with a cache of its own.

    Raises:
        RequestError: it is no network, or their vocabularies differ.
    """
    if draft_model is None:
        return None
    is_network = isinstance(draft_model, nn.Module) and hasattr(draft_model, "config")
    if not is_network:
        raise RequestError(f"draft_model is a {type(draft_model).__name__}; it must be a network or None")
    sizes = (int(draft_model.config.vocab_size), int(runner.model.config.vocab_size))
    if sizes[0] != sizes[1]:
        raise RequestError(f"the draft model has {sizes[0]} tokens and the model {sizes[1]}; they must be equal")
    cache = new_cache(draft_model, blocks, runner.block_size, draft_model.dtype)
    return DraftModel(draft_model, runner.sampler, cache, runner.block_size, config.attention)
