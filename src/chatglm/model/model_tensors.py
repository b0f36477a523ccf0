"""The tensors of a model in memory as official files hold them: what `save_pretrained` writes."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from chatglm.errors import CheckpointError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.layout import (
    CLASSIFIER,
    INV_FREQ,
    PACKED,
    AnyConfig,
    canonical_name,
    expected_shapes,
    official_inv_freq,
)
from chatglm.model.saving import Source
from chatglm.model.weights import WeightFolder

_STORED = "stored_inv_freq"


def keep_inv_freq(model: PreTrainedModel, weights: WeightFolder) -> None:
    """Remember the file's `inv_freq`, which the network computes afresh, so that saving writes the same bits."""
    if INV_FREQ in weights.tensors:
        setattr(_rotary(model), _STORED, weights.read(INV_FREQ))


def official_sources(
    model: PreTrainedModel,
    state_dict: Mapping[str, Tensor] | None = None,
    tables: Mapping[str, Tensor] | None = None,
) -> dict[str, Source]:
    """The tensors of a model (or of a state dict gathered from it) under official names and in official order.

    The rotary `tables` are included (by default `inv_freq`), and `quantization_bit` decides the storage of the linears
    as everywhere.

    Raises:
        CheckpointError: the model holds tensors of an adapter, or of anything else official files do not have.
    """
    official = _rowwise_sources(model) if model.config.quantization_bit and not state_dict else {}
    state = {canonical_name(name): tensor for name, tensor in (state_dict or model.state_dict()).items()}
    if official:
        state = {name: tensor for name, tensor in state.items() if PACKED not in name}
    order = [*expected_shapes(cast(AnyConfig, model.config)), f"{CLASSIFIER}weight", f"{CLASSIFIER}bias"]
    if foreign := [name for name in state if name not in order]:
        raise CheckpointError(
            f"the model holds {foreign[0]!r} and {len(foreign) - 1} more tensors that the official layout does not "
            "have; merge or remove an attached adapter before saving the whole model"
        )
    if tables is None:
        tables = {INV_FREQ: inv_freq(model)}
    state = dict(tables) | state
    made = {name: Source.of(tensor) for name, tensor in state.items()} | official
    return {name: made[name] for name in order if name in made}


def _rowwise_sources(model: PreTrainedModel) -> dict[str, Source]:
    """The official tensors of layers that hold them in another form; each is made when it is written."""
    sources: dict[str, Source] = {}
    for name, module in model.named_modules():
        for part, (shape, dtype, make) in getattr(module, "official_tensors", dict)().items():
            sources[canonical_name(f"{name}.{part}")] = Source(shape, dtype, make)
    return sources


def inv_freq(model: PreTrainedModel) -> Tensor:
    """The `inv_freq` buffer of official files, in the dtype of the model: as loaded, else 1 / 10000^(2i / dim)."""
    stored: Tensor | None = getattr(_rotary(model), _STORED, None)
    if stored is None:
        stored = official_inv_freq(cast(ChatGLMConfig, model.config))
    return stored.to(model.dtype)


def _rotary(model: PreTrainedModel) -> nn.Module:
    return model.base_model.get_submodule("rotary_pos_emb")
