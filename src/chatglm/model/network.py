"""The ChatGLM2 / ChatGLM3 network, written the way transformers 5 writes a model, under the official module names.

One network serves `generate()`, training and the engine: attention is a name looked up at call time
(`ALL_ATTENTION_FUNCTIONS`), the key/value cache is an argument, and keyword arguments nobody here knows travel on to
the attention function. Nothing in this file knows of quantization, parallelism or serving.

Shapes as in `layers.py`: B batch, S new tokens, T cached plus new tokens, P prefix tokens, G groups, D channels.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers import __version__ as transformers_version
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple

from chatglm.errors import ConfigError
from chatglm.model import layers
from chatglm.model.config import ChatGLMConfig
from chatglm.model.habits import OfficialHabits
from chatglm.model.pretrained import OfficialCheckpoints
from chatglm.model.trunk import Trunk, last_tokens


class NamedAttention(layers.SelfAttention):
    """Finds attention functions where transformers keeps them."""

    config: ChatGLMConfig

    def named_attention(self, name: str | None) -> layers.Attention:
        found: layers.Attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            name or self.config._attn_implementation, layers.eager_attention
        )
        return found


class GLMBlock(layers.GLMBlock, GradientCheckpointingLayer):
    """A layer that can be computed again instead of being kept for the backward pass."""

    attention_class = NamedAttention


class ChatGLMPreTrainedModel(OfficialCheckpoints):
    """What transformers needs to know of the family."""

    config: ChatGLMConfig

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GLMBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # In every official file; only its length was ever used, and the angles are computed exactly here.
    _keys_to_ignore_on_load_unexpected = [r"rotary_pos_emb\.inv_freq$"]

    def get_submodule(self, target: str) -> nn.Module:
        """As in torch. Where peft first looks for the embedding is the embedding: its other way is to look for a
        parameter with a row for each id, and quantized embeddings have none."""
        return self.get_input_embeddings() if target == "embeddings.word_embeddings" else super().get_submodule(target)

    @classmethod
    def from_pretrained(cls, *args: Any, device: Any = None, empty_init: bool = True, **kwargs: Any) -> Any:
        """As in `OfficialCheckpoints`, with the official `device="cuda"`; `empty_init` is accepted and always true."""
        loaded = super().from_pretrained(*args, **kwargs)
        if device is not None:
            (loaded[0] if isinstance(loaded, tuple) else loaded).to(device)
        return loaded


class ChatGLMModel(Trunk, ChatGLMPreTrainedModel):
    """Embedding, layers and final norm. Holds the output layer because the official names put it here."""

    def __init__(self, config: ChatGLMConfig, with_output_layer: bool = True) -> None:
        super().__init__(config)
        self.build(config, GLMBlock, with_output_layer)
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding.word_embeddings = value  # type: ignore[assignment]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        attention: str | layers.Attention | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the layers over `input_ids` [B, S] or `inputs_embeds` [B, S, hidden].

        `attention_mask` is [B, T] of 0 and 1 over cached and new tokens, without a P-Tuning prefix (or a 4-d mask, used
        as it is). `position_ids` [B, S] default to a continuation of the cache. `hidden_states`, when asked for, are
        the input of each layer and the output of the last one *before* the final norm, batch first.
        `attention`: for this call, another attention function than the configured one, or its registered name; it sees
        to its own mask and to the P-Tuning prefix.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        keep_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        keep_weights = self.config.output_attentions if output_attentions is None else output_attentions
        use_cache = self._wants_cache(use_cache)
        if position_ids is None:
            position_ids = self._next_positions(inputs_embeds, past_key_values)
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.config)
        prefixes, mask = None, None
        if attention is None:
            prefixes, mask = self._prefixes_and_mask(inputs_embeds, attention_mask, past_key_values, position_ids)
        kwargs |= {"attention": attention, "attention_mask": mask, "past_key_values": past_key_values}
        last, all_hidden, all_weights = self.through_layers(
            inputs_embeds, position_ids, prefixes, keep_hidden, keep_weights, **kwargs
        )
        return BaseModelOutputWithPast(
            last_hidden_state=last,
            past_key_values=past_key_values,
            hidden_states=all_hidden,
            attentions=cast(Any, all_weights),
        )

    def _prefixes_and_mask(
        self, inputs_embeds: Tensor, mask: Tensor | None, cache: Cache | None, position_ids: Tensor
    ) -> tuple[Tensor | None, Any]:
        """P-Tuning keys and values for layers without a cache, and the mask in the configured attention's own form."""
        prefixes, sized_by = None, cache
        if self.prefix_encoder is not None:
            prefixes, mask, sized_by = self._prefix(inputs_embeds, mask, cache)
        return prefixes, create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            past_key_values=sized_by,
            position_ids=position_ids,
        )

    def _wants_cache(self, use_cache: bool | None) -> bool:
        wanted: bool = self.config.use_cache if use_cache is None else use_cache
        # A recomputed layer would write its keys twice; transformers' own models drop the cache here too.
        return wanted and not (self.gradient_checkpointing and self.training)

    def _next_positions(self, inputs_embeds: Tensor, past_key_values: Cache | None) -> Tensor:
        """Positions after those in the cache; a P-Tuning prefix occupies the cache but no positions."""
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        if self.prefix_encoder is not None and past_key_values is not None and start > 0:
            start = start - self.prefix_encoder.pre_seq_len
        return torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None] + start

    def _prefix(
        self, inputs_embeds: Tensor, mask: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor | None, Tensor | None, Cache | None]:
        """Bring in the P-Tuning prefix: -> (keys and values for the layers, wider mask, cache the mask is sized by).

        With a cache the prefix is written there, once. Without one (training) the layers get it as an argument, since
        gradient checkpointing takes caches away, and a throw-away cache tells the mask how many keys there will be.
        """
        assert self.prefix_encoder is not None
        batch, dtype = inputs_embeds.shape[0], inputs_embeds.dtype
        if mask is not None and mask.dim() == 2:
            mask = torch.cat((mask.new_ones(batch, self.prefix_encoder.pre_seq_len), mask), dim=1)
        if cache is None:
            prefixes = self.prefix_encoder(batch, dtype)
            sized_by = DynamicCache()
            sized_by.update(*prefixes[0], 0)
            return prefixes, mask, sized_by
        _check_static_prefix(cache)
        if cache.get_seq_length() == 0:
            for layer_idx, (key, value) in enumerate(self.prefix_encoder(batch, dtype)):
                cache.update(key, value, layer_idx)
        return None, mask, cache


def _check_static_prefix(cache: Cache) -> None:
    """Older releases place the mask of a static cache by positions, of which a prefix has none: wrong tokens."""
    if getattr(cache, "is_compileable", False) and tuple(map(int, transformers_version.split(".")[:2])) < (5, 23):
        raise ConfigError(
            f"a static cache with a P-Tuning prefix gives wrong tokens on transformers {transformers_version}; "
            "use a dynamic cache, or transformers 5.23 and later"
        )


class ChatGLMForConditionalGeneration(OfficialHabits, ChatGLMPreTrainedModel, GenerationMixin):
    """The language model, under its official name."""

    _tied_weights_keys = {"transformer.output_layer.weight": "transformer.embedding.word_embeddings.weight"}

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> nn.Module:
        return self.transformer.output_layer

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.transformer.output_layer = value  # type: ignore[assignment]

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: Any, mode: Any, batch_size: int, max_cache_length: int, *rest: Any
    ) -> Any:
        """A cache of fixed size needs room for the P-Tuning prefix too."""
        max_cache_length += self.config.pre_seq_len or 0
        return super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, mode, batch_size, max_cache_length, *rest
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, S or kept, vocab] (of a mask: [kept, vocab]); with `labels` [B, S] (not shifted, -100 ignored) the
        mean loss in float32."""
        if kwargs.pop("return_last_logit", False):  # the official switch
            logits_to_keep = 1
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        logits = self.transformer.output_layer(last_tokens(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.padded_vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ChatGLMForSequenceClassification(ChatGLMPreTrainedModel):
    """A linear head on the last real token, for left or right padding and any dtype."""

    checkpoint_head = "sequence_classification"
    _keys_to_ignore_on_load_unexpected = [r"rotary_pos_emb\.inv_freq$", r"transformer\.output_layer\."]

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = ChatGLMModel(config, with_output_layer=False)
        self.dropout = nn.Dropout(config.classifier_dropout or 0.0)
        self.classifier_head = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Logits [B, labels]; the loss follows `config.problem_type` as for every transformers classifier."""
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        last = self._last_real_token(hidden_states, input_ids, attention_mask)
        pooled = hidden_states[torch.arange(hidden_states.shape[0], device=last.device), last]
        logits = self.classifier_head(self.dropout(pooled))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _last_real_token(self, hidden_states: Tensor, ids: Tensor | None, mask: Tensor | None) -> Tensor:
        """Index of each row's last token that is no padding [B]: by the mask, else by the pad id, else the last."""
        length = hidden_states.shape[1]
        if mask is not None and mask.dim() == 2:
            real = mask[:, -length:].bool()
        elif ids is not None and self.config.pad_token_id is not None:
            real = ids != self.config.pad_token_id
        else:
            real = hidden_states.new_ones(hidden_states.shape[:2], dtype=torch.bool)
        return (torch.arange(length, device=hidden_states.device) * real).argmax(-1)
