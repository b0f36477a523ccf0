"""What lies around the layers of ChatGLM2 / ChatGLM3, under the official names: embedding, stack, prefix, output layer.

Torch alone: `network.py` makes a transformers model of it, `bare.py` what an engine needs and no more.

Shapes as in `layers.py`: B batch, S new tokens, P prefix tokens, G groups, D channels.
"""

from itertools import repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from chatglm.model.layers import GLMBlock, RotaryEmbedding, make_norm

if TYPE_CHECKING:
    from chatglm.model.plain_config import ConfigFields

# (the last states, the states around each layer, the attention weights of each layer), the latter two where asked for
Passed = tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor | None, ...] | None]


class Embedding(nn.Module):
    """Word embeddings, in a module of their own because the official names have one."""

    def __init__(self, config: "ConfigFields") -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.word_embeddings(input_ids)  # type: ignore[no-any-return]


class GLMTransformer(nn.Module):
    """The stack of layers and the final norm."""

    def __init__(self, config: "ConfigFields", block: type[GLMBlock] = GLMBlock) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block(config, index) for index in range(config.num_layers))
        if config.post_layer_norm:
            self.final_layernorm = make_norm(config)
        self.post_layer_norm = config.post_layer_norm

    def forward(
        self,
        hidden_states: Tensor,
        prefixes: Tensor | None = None,
        keep_hidden: bool = False,
        keep_weights: bool = False,
        **kwargs: Any,
    ) -> Passed:
        """[B, S, hidden] -> (the same after the final norm, the input of each layer and the output of the last one, the
        attention weights of each layer), the latter two where asked for."""
        all_hidden, all_weights = [hidden_states], []
        for layer, prefix in zip(self.layers, repeat(None) if prefixes is None else prefixes, strict=False):
            hidden_states, weights = layer(hidden_states, prefix, **kwargs)
            if keep_hidden:
                all_hidden.append(hidden_states)
            if keep_weights:
                all_weights.append(weights)
        last = self.final_norm(hidden_states)
        return last, tuple(all_hidden) if keep_hidden else None, tuple(all_weights) if keep_weights else None

    def final_norm(self, hidden_states: Tensor) -> Tensor:
        if not self.post_layer_norm:
            return hidden_states
        dtype = next(self.final_layernorm.parameters()).dtype  # narrows a float32 residual stream before the norm
        return self.final_layernorm(hidden_states.to(dtype))  # type: ignore[no-any-return]


class PrefixEncoder(nn.Module):
    """P-Tuning v2 (arXiv:2110.07602): trained keys and values put in front of every layer's cache, not rotated."""

    def __init__(self, config: "ConfigFields") -> None:
        super().__init__()
        assert config.pre_seq_len is not None
        assert config.kv_channels is not None
        self.shape = (config.num_layers, 2, config.num_key_value_heads, config.kv_channels)
        self.pre_seq_len = config.pre_seq_len
        size = config.num_layers * 2 * config.num_key_value_heads * config.kv_channels
        self.embedding = nn.Embedding(config.pre_seq_len, size)
        self.trans: nn.Sequential | None = None
        if config.prefix_projection:
            self.trans = nn.Sequential(
                nn.Linear(size, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, size)
            )
        self.dropout = nn.Dropout(0.1)

    def forward(self, batch: int, dtype: torch.dtype) -> Tensor:
        """-> [layers, 2 (key, value), B, G, prefix, D] in `dtype`."""
        rows = self.embedding.weight if self.trans is None else self.trans(self.embedding.weight)
        rows = rows.unflatten(-1, self.shape).unsqueeze(0).expand(batch, -1, -1, -1, -1, -1)
        # One mask per sequence of the batch, as the official code has it.
        return self.dropout(rows).permute(2, 3, 0, 4, 1, 5).to(dtype)  # type: ignore[no-any-return]


class Trunk:
    """Mixin over nn.Module: everything but the heads of the network, and the way through its layers."""

    config: Any

    def build(self, config: "ConfigFields", block: type[GLMBlock] = GLMBlock, with_output_layer: bool = True) -> None:
        """Make the modules, in the order of official files."""
        self.embedding = Embedding(config)
        self.rotary_pos_emb = RotaryEmbedding(config)
        self.encoder = GLMTransformer(config, block)
        if with_output_layer:
            self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)
        self.prefix_encoder = PrefixEncoder(config) if config.pre_seq_len is not None else None

    def through_layers(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        prefixes: Tensor | None = None,
        keep_hidden: bool = False,
        keep_weights: bool = False,
        **kwargs: Any,
    ) -> Passed:
        """[B, S, hidden] at `position_ids` [B, S] -> what `GLMTransformer` gives."""
        tables = self.rotary_pos_emb(position_ids, inputs_embeds.dtype)
        kwargs |= {"position_embeddings": tables, "position_ids": position_ids}
        hidden_states = inputs_embeds.float() if self.config.fp32_residual_connection else inputs_embeds
        passed: Passed = self.encoder(hidden_states, prefixes, keep_hidden, keep_weights, **kwargs)
        return passed


def last_tokens(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Where logits are wanted: the last n (0: all), a tensor of indices, or bool [B, S] -> [kept, hidden]."""
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:] if logits_to_keep else hidden_states
    return hidden_states[logits_to_keep] if logits_to_keep.dim() == 2 else hidden_states[:, logits_to_keep]
