"""From the options of a command line to a model for an engine, without transformers where it is not needed.

`load_for_engine` gives what `loading.load_as` gives, as far as an engine can tell: the same weights in the same layers,
the same ids. Where something is asked for that only transformers' models can do - adapters, a prefix, quantizing, the
first generation, a tokenizer with added tokens - it is `load_as`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from chatglm import copies, hub, loading
from chatglm.memory import check_memory
from chatglm.model.bare import load_bare
from chatglm.model.bare_tokenizer import bare_tokenizer
from chatglm.model.checkpoint import stored_tensors, verify_folder
from chatglm.model.layout import is_storage
from chatglm.model.plain_config import FIRST_GENERATION, PlainConfig, read_settings
from chatglm.quant.model import METHOD, quantize_empty_model, scheme_of_config
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_embedding import PackedEmbedding
from chatglm.quant.scheme import QuantScheme

if TYPE_CHECKING:
    from chatglm.model.weights import WeightFolder

_NEED_TRANSFORMERS = ("adapter", "prefix")


def load_for_engine(options: Any, *, bars: bool = True) -> tuple[Any, Any]:
    """The model and the tokenizer that the options of a command line name, for `engine_for` alone.

    Args:
        options: as for `loading.load_as`.
        bars: whether transformers may draw a bar while it reads weights.

    Raises:
        ChatGLMError: as for `loading.load`.
    """
    if (loaded := _load_bare(options)) is not None:
        return loaded
    if not bars:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    return loading.load_as(options)


def _load_bare(options: Any) -> tuple[Any, Any] | None:
    """None where transformers is needed."""
    if any(getattr(options, name) for name in _NEED_TRANSFORMERS):
        return None
    place = loading.parse_device(options.device)
    folder = loading.demo_folder() if options.model is None else hub.resolve(options.model, hub=options.hub)
    if not (folder / "config.json").is_file() or not _is_plain(read_settings(folder)):
        return None
    given = {} if options.rope_ratio_meaning is None else {"rope_ratio_meaning": options.rope_ratio_meaning}
    config: Any = PlainConfig.read(folder, **given)
    dtype = loading.choose_dtype(options.dtype, folder, place)
    tokenizer = bare_tokenizer(folder)
    weights = verify_folder(folder, config)
    if options.quantize is not None and scheme_of_config(config) is None:
        scheme = QuantScheme.parse(options.quantize)
        dtype = dtype if options.dtype is not None else loading.beside_quantized(dtype, place)
        kept = None if options.no_cache else _kept_copy(weights, config, scheme)
        if kept is None:
            return None
        weights = kept
    elif options.quantize is not None:
        return None
    if tokenizer is None or not isinstance(dtype, torch.dtype):
        return None
    if place.type == "cpu":
        check_memory(weights, config, dtype, stored_tensors(weights))
    model = load_bare(config, _reads(weights, dtype), partial(_smaller, scheme=scheme_of_config(config)))
    for module in model.modules():
        if isinstance(module, (PackedLinear, PackedEmbedding)):
            module.check()
    model.to(place)
    return (loading.ready_for_cpu(model) if place.type == "cpu" else model), tokenizer


def _is_plain(settings: dict[str, Any]) -> bool:
    """Whether a configuration is one of full or packed weights and of nothing besides."""
    packed = settings.get("quantization_config")
    ours = packed is None or (isinstance(packed, dict) and packed.get("quant_method") == METHOD)
    special = settings.get("quantization_bit") or settings.get("pre_seq_len") is not None
    return FIRST_GENERATION not in settings and not special and ours


def _kept_copy(weights: "WeightFolder", config: Any, scheme: QuantScheme) -> "WeightFolder | None":
    """The copy that was kept of a folder's weights; what it holds is then what `config` says."""
    scheme = scheme.without_ends() if config.tie_word_embeddings else scheme
    folder = copies.find(weights, scheme)
    if folder is None:
        return None
    config.quantization_config = {"quant_method": METHOD, "scheme": scheme.to_dict()}
    return verify_folder(folder, config)


def _reads(weights: "WeightFolder", dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """How to read each tensor, in `dtype` where it is no part of a quantized weight; mapped where it lies so."""
    return {name: partial(_read, weights, name, dtype) for name in weights.tensors}


def _read(weights: "WeightFolder", name: str, dtype: torch.dtype) -> Tensor:
    info = weights.tensors[name]
    if is_storage(name) or not info.dtype.is_floating_point or info.dtype == dtype:
        return weights.mapped(name)
    return weights.read(name).to(dtype)


def _smaller(model: nn.Module, scheme: QuantScheme | None) -> None:
    if scheme is not None:
        quantize_empty_model(model, scheme)
