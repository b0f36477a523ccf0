"""The network alone, on torch alone: what an engine runs, in a process that has no use for transformers.

`transformers` takes longer to import than the embedded model to answer. Whoever calls `chatglm.load` or
`from_pretrained` gets the models of `network.py`, which can all that transformers' models can; both are made of the
same modules and give the same numbers. `load_bare` makes one, for the programs that only ever ask an engine.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chatglm.errors import CheckpointError
from chatglm.model.layers import Attention
from chatglm.model.layout import EMBEDDING, INV_FREQ, OUTPUT
from chatglm.model.plain_config import PlainConfig
from chatglm.model.trunk import Trunk, last_tokens


class States(NamedTuple):
    """What the inner network gives: [B, S, hidden] after the final norm."""

    last_hidden_state: Tensor


class Logits(NamedTuple):
    """What the language model gives: [B, S or kept, vocab]."""

    logits: Tensor


class BareModel(Trunk, nn.Module):
    """Embedding, layers and final norm, and the output layer, which official names put here."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config = config
        self.build(config)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention: Attention,
        use_cache: bool = False,
        **kwargs: Any,
    ) -> States:
        """The layers over `input_ids` [B, S]; `attention` sees to keys, values, masks and a P-Tuning prefix."""
        assert not use_cache  # what has been is the attention's to keep
        return States(self.through_layers(self.embedding(input_ids), position_ids, attention=attention, **kwargs)[0])


class BareLanguageModel(nn.Module):
    """The language model as an engine needs it."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = BareModel(config)

    @property
    def base_model(self) -> BareModel:
        """The network without its head."""
        return self.transformer

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are no storage."""
        return next(weight.dtype for weight in self.parameters() if weight.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.embedding.word_embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.transformer.output_layer

    def forward(
        self, input_ids: Tensor, logits_to_keep: int | Tensor = 0, return_dict: bool = True, **kwargs: Any
    ) -> Logits:
        """Logits where they are wanted, see `last_tokens`; the rest is `BareModel`'s."""
        states = self.transformer(input_ids=input_ids, **kwargs).last_hidden_state
        return Logits(self.transformer.output_layer(last_tokens(states, logits_to_keep)))


class _NoNumbers(TorchFunctionMode):
    """Leaves out the first numbers of new layers, for others are read. On "meta" they would draw in torch's compiler
    besides, which takes longer to import than all the rest."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == nn.init.__name__:
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return function(*args, **(kwargs or {}))


def load_bare(
    config: PlainConfig, tensors: Mapping[str, Callable[[], Tensor]], prepare: Callable[[nn.Module], object]
) -> BareLanguageModel:
    """A network with the weights that `tensors` give.

    Args:
        config: of the network.
        tensors: by official names, as `checkpoint.verify_folder` has checked them.
        prepare: puts other layers into the empty network, for weights that are stored smaller.

    Raises:
        CheckpointError: a tensor is missing, or has no place.
    """
    with torch.device("meta"), _NoNumbers():
        model = BareLanguageModel(config)
    prepare(model)
    state = {name: read() for name, read in tensors.items() if name != INV_FREQ}
    if config.tie_word_embeddings:
        state[OUTPUT] = state[EMBEDDING]
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    if missing or unexpected:
        raise CheckpointError(f"the weights do not fit the network: missing {missing}, unexpected {unexpected}")
    if config.tie_word_embeddings:
        model.transformer.output_layer.weight = model.transformer.embedding.word_embeddings.weight
    return model.eval()
