"""Whole models: which layers a scheme is about, quantizing them one at a time, and the way back."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from chatglm.errors import ConfigError
from chatglm.quant import rowwise
from chatglm.quant.linear import QUANTIZED_LINEARS, RowwiseLinear, is_full
from chatglm.quant.mapped import release
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_embedding import PackedEmbedding
from chatglm.quant.rowwise_embedding import RowwiseEmbedding
from chatglm.quant.scheme import OFFICIAL, QuantScheme

METHOD = "chatglm_packed"
HEADS, EMBEDDINGS = ("output_layer", "lm_head"), ("word_embeddings", "embed_tokens")
Progress = Callable[[int, int], None]  # layers done, layers in all


def scheme_of_layer(name: str, scheme: QuantScheme) -> QuantScheme | None:
    """The scheme for the layer of this name: of a linear, the output layer or the embedding; None: left as it is."""
    last = name.rpartition(".")[2]
    if scheme.skips(name):
        return None
    if last in QUANTIZED_LINEARS:
        return QuantScheme(scheme.bits, scheme.group_size, scheme.symmetric, None, None)
    if last in HEADS and scheme.head_bits is not None:
        return scheme.for_head()
    if last in EMBEDDINGS and scheme.embedding_bits is not None:
        return QuantScheme(scheme.embedding_bits, None, True, None, None)
    return None


def quantize_model(model: nn.Module, scheme: QuantScheme | str | int, progress: Progress | None = None) -> nn.Module:
    """Quantize a model in place, one layer at a time, rounding to nearest. Records the scheme in its configuration.

    Raises:
        ConfigError: the model is quantized already (doing it twice would add the errors up), holds an adapter that is
        in the way, has no layer the scheme is about, or keeps weights elsewhere than in memory.
    """
    scheme = effective_scheme(model, QuantScheme.parse(scheme))
    refuse_quantized(model, scheme)
    names = [name for name, _, _ in _layers(model, scheme)]
    _refuse_absent(model, names)
    for done, name in enumerate(names):
        layer: Any = model.get_submodule(name)
        wanted = scheme_of_layer(name, scheme)
        assert wanted is not None
        put(model, name, quantized_layer(layer, wanted))
        release(layer.weight)
        if progress is not None:
            progress(done + 1, len(names))
    record(model, scheme)
    return model


def _refuse_absent(model: nn.Module, names: list[str]) -> None:
    """Before any layer is touched: what accelerate keeps elsewhere has no values here."""
    absent = next((name for name in names if model.get_submodule(name).weight.is_meta), None)
    if absent is not None:
        raise ConfigError(
            f"the weight of {absent} is not in memory (it is offloaded, or was never loaded); quantize the model "
            'first, or load the folder with quantize="int4"'
        )


def quantize_rowwise(model: nn.Module, bits: int) -> nn.Module:
    """`quantize_model` with the official scheme of 4 or 8 bits; once more to the same bits changes nothing, as in the
    official code.

    Raises:
        ConfigError: unknown bits, a model quantized otherwise, or no layer to quantize.
    """
    rowwise.check_bits(bits)
    return model if scheme_of(model) == OFFICIAL[bits] else quantize_model(model, OFFICIAL[bits])


def quantize_empty_model(model: nn.Module, scheme: QuantScheme, stored_dtype: torch.dtype | None = None) -> nn.Module:
    """Put empty packed layers where the scheme says, ready for a quantized checkpoint. `stored_dtype`: of the full
    weights, where it is known; official files hold the scales in it."""
    for name, layer, wanted in list(_layers(model, effective_scheme(model, scheme))):
        embedding = isinstance(layer, nn.Embedding)
        put(model, name, PackedEmbedding.empty_like(layer) if embedding else PackedLinear.empty_like(layer, wanted))
    record(model, scheme)
    return model


def empty_rowwise(model: nn.Module, bits: int, scale_dtype: torch.dtype = torch.float16) -> nn.Module:
    """Put empty layers of official storage where such a file has them; `pack_rowwise` follows when they are filled."""
    rowwise.check_bits(bits)
    for name, layer, _ in list(_layers(model, OFFICIAL[bits])):
        put(model, name, RowwiseLinear.empty_like(layer, bits, scale_dtype=scale_dtype))
    if getattr(getattr(model, "config", None), "quantization_embeddings", False):
        _empty_rowwise_ends(model, bits, scale_dtype)
    record(model, OFFICIAL[bits])
    return model


def _empty_rowwise_ends(model: nn.Module, bits: int, scale_dtype: torch.dtype) -> None:
    """Embedding and output layer, which ChatGLM-6B-int4-qe stores row-wise too."""
    for name, layer in list(model.named_modules()):
        last = name.rpartition(".")[2]
        if last in EMBEDDINGS and isinstance(layer, nn.Embedding):
            put(model, name, RowwiseEmbedding(layer, bits, scale_dtype))
        elif last in HEADS and isinstance(layer, nn.Linear):
            put(model, name, RowwiseLinear.empty_like(layer, bits, scale_dtype=scale_dtype))


def quantized_layer(layer: nn.Module, scheme: QuantScheme) -> nn.Module:
    """A packed layer for a plain linear or embedding."""
    if isinstance(layer, nn.Embedding):
        return PackedEmbedding.from_embedding(layer).train(layer.training)
    assert isinstance(layer, nn.Linear)
    return PackedLinear.from_linear(layer, scheme).train(layer.training)


def pack_rowwise(model: nn.Module) -> nn.Module:
    """Lay official row-wise layers out for the kernels, in place, one at a time. The numbers stay the same, and
    saving writes the official format again. Layers that are elsewhere (accelerate's offloading) stay as they are."""
    for name in [name for name, layer in model.named_modules() if isinstance(layer, RowwiseLinear)]:
        layer = model.get_submodule(name)
        assert isinstance(layer, RowwiseLinear)
        if not layer.weight.is_meta:
            put(model, name, PackedLinear.from_rowwise(layer))
            release(layer.weight)
    return model


def unpack_model(model: nn.Module, dtype: Any = None) -> nn.Module:
    """Plain layers back in place of all packed ones, one at a time, with the weights those stand for."""
    for name in [name for name, layer in model.named_modules() if isinstance(layer, (PackedLinear, PackedEmbedding))]:
        layer: Any = model.get_submodule(name)
        wanted = dtype or getattr(model, "dtype", None)
        put(model, name, layer.to_linear(wanted) if isinstance(layer, PackedLinear) else layer.to_embedding(wanted))
    record(model, None)
    return model


def scheme_of(model: nn.Module) -> QuantScheme | None:
    """The scheme a model is quantized with, None for full weights; official row-wise models included."""
    config = getattr(model, "config", None)
    if (scheme := scheme_of_config(config)) is not None:
        return scheme
    found = (_bits_of(module) for module in model.modules() if isinstance(module, (RowwiseLinear, PackedLinear)))
    bits = next(found, None)
    return None if bits is None else OFFICIAL[bits]


def _bits_of(layer: RowwiseLinear | PackedLinear) -> int:
    return layer.bits if isinstance(layer, RowwiseLinear) else layer.scheme.bits


def scheme_of_config(config: Any) -> QuantScheme | None:
    """The scheme `config.quantization_config` holds, None where there is none of ours."""
    held = getattr(config, "quantization_config", None)
    if held is None:
        return None
    values = held if isinstance(held, dict) else held.to_dict()
    return QuantScheme.from_dict(values["scheme"]) if values.get("quant_method") == METHOD else None


def record(model: nn.Module, scheme: QuantScheme | None) -> None:
    """Write the scheme into the configurations of a model and its parts."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is None or not hasattr(config, "quantization_bit"):
            continue
        config.__dict__.pop("quantization_config", None)
        config.quantization_bit = 0
        if scheme is not None and scheme.is_official:
            config.quantization_bit = scheme.bits
        elif scheme is not None:
            config.quantization_config = {"quant_method": METHOD, "scheme": scheme.to_dict()}


def effective_scheme(model: nn.Module, scheme: QuantScheme) -> QuantScheme:
    """Without head and embedding where the model ties the two: they are one tensor, which must stay one."""
    if getattr(getattr(model, "config", None), "tie_word_embeddings", False):
        return scheme.without_ends()
    return scheme


def refuse_quantized(model: nn.Module, scheme: QuantScheme) -> None:
    """Raise ConfigError where a model is quantized already."""
    current = scheme_of(model)
    if current is not None:
        raise ConfigError(
            f"the model is already quantized ({current.name}); load the full weights to get {scheme.name}"
        )


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the layer of a name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _layers(model: nn.Module, scheme: QuantScheme) -> Iterator[tuple[str, Any, QuantScheme]]:
    found = False
    for name, layer in model.named_modules():
        if not (is_full(layer) or isinstance(layer, nn.Embedding)):
            continue
        wanted = scheme_of_layer(name, scheme)
        if wanted is not None:
            found = True
            yield name, layer, wanted
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no layer to quantize ({', '.join(QUANTIZED_LINEARS)}); "
            "a model with an adapter attached must be quantized first, or the adapter merged"
        )
