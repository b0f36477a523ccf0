"""The ChatGLM-6B network, written as `chatglm.model.network` is, under the official module names.

Shapes as in `layers.py`: B batch, S new tokens, T cached plus new tokens, P prefix tokens, H heads, D channels.
"""

from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from chatglm.errors import ConfigError, PromptError, RequestError
from chatglm.model.habits import FirstHabits
from chatglm.model.layers import Attention
from chatglm.model.trunk import last_tokens
from chatglm.model.v1 import positions
from chatglm.model.v1.checkpoints import FirstCheckpoints
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.v1.layers import GLM1Block, LayerNorm, PrefixEncoder, RotaryEmbedding


class ChatGLM1PreTrainedModel(FirstCheckpoints):
    """What transformers needs to know of the first generation."""

    config_class = ChatGLM1Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GLM1Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _can_compile_fullgraph = False  # no static cache: the mask of a prompt is not causal

    def get_submodule(self, target: str) -> nn.Module:
        """As in torch; peft looks for the embedding under the later generations' name."""
        return self.get_input_embeddings() if target == "embeddings.word_embeddings" else super().get_submodule(target)


class ChatGLM1Model(ChatGLM1PreTrainedModel):
    """Embedding, layers and final norm."""

    def __init__(self, config: ChatGLM1Config) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary_emb = RotaryEmbedding(config)
        self.layers = nn.ModuleList(GLM1Block(config, index) for index in range(config.num_layers))
        self.final_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.prefix_encoder = PrefixEncoder(config) if config.pre_seq_len is not None else None
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embeddings = value  # type: ignore[assignment]

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
        attention: str | Attention | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the layers over `input_ids` [B, S] or `inputs_embeds` [B, S, hidden].

        `attention_mask` is the official one, bool [B, 1, S, T], True where a row must not see a column; or [B, T] of 0
        for padding and 1, from which it is made. `position_ids` are [B, 2, S]. Without them, both follow from the ids;
        behind a cache, tokens without a mask see everything, as in the official code. `hidden_states`, when asked for,
        are the input of each layer, and last the output *after* the final norm, batch first. `attention`: for this
        call, another attention function, or its registered name; it sees to its own mask and to the P-Tuning prefix.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        past = self._past_length(past_key_values)
        if position_ids is None:
            real = attention_mask if attention_mask is not None and attention_mask.dim() == 2 and not past else None
            position_ids = positions.make_position_ids(_needed(input_ids), self.config, real)
        hidden = None if attention is not None else self._hidden(input_ids, attention_mask, past)
        inputs_embeds = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        assert inputs_embeds is not None
        if past_key_values is None and self._wants_cache(use_cache):
            past_key_values = DynamicCache(config=self.config)
        prefixes = None
        if attention is None:
            prefixes, hidden = self._prefix(inputs_embeds, hidden, past_key_values)
        kwargs |= {
            "attention": attention,
            "attention_mask": _additive(hidden, inputs_embeds.dtype),
            "position_embeddings": self.rotary_emb(position_ids, inputs_embeds.dtype),
            "past_key_values": past_key_values,
        }
        keep_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        keep_weights = self.config.output_attentions if output_attentions is None else output_attentions
        states, all_hidden, all_weights = inputs_embeds, [], []
        for layer, prefix in zip(self.layers, repeat(None) if prefixes is None else prefixes, strict=False):
            all_hidden += [states] if keep_hidden else []
            states, weights = layer(states, prefix, **kwargs)
            all_weights += [weights] if keep_weights else []
        last = self.final_layernorm(states)
        return BaseModelOutputWithPast(
            last_hidden_state=last,
            past_key_values=past_key_values,
            hidden_states=(*all_hidden, last) if keep_hidden else None,
            attentions=tuple(all_weights) if keep_weights else None,
        )

    def _past_length(self, cache: Cache | None) -> int:
        """Tokens in a cache, without those of a P-Tuning prefix."""
        if cache is None:
            return 0
        if getattr(cache, "is_compileable", False):
            raise ConfigError("ChatGLM-6B has no use for a static cache: its prompts see themselves; use a dynamic one")
        length = int(cache.get_seq_length())
        return length - self.prefix_encoder.pre_seq_len if self.prefix_encoder is not None and length else length

    def _wants_cache(self, use_cache: bool | None) -> bool:
        wanted: bool = self.config.use_cache if use_cache is None else use_cache
        # A recomputed layer would write its keys twice; transformers' own models drop the cache here too.
        return wanted and not (self.gradient_checkpointing and self.training)

    def _hidden(self, ids: Tensor | None, mask: Tensor | None, past: int) -> Tensor | None:
        """What rows must not see, bool [B, 1, S, T]; None: they see everything."""
        if mask is None or mask.dim() == 2:
            if not past:
                return positions.hidden_columns(_needed(ids), self.config, mask)
            return None if mask is None else positions.hidden_after(mask, _needed(ids).shape[1])
        if mask.dim() != 4 or mask.dtype != torch.bool:
            raise PromptError(
                f"attention_mask is {mask.dtype} {list(mask.shape)}; it must be bool [batch, 1, new, all], True where "
                "a token must not look, or [batch, all] of 0 and 1, as the tokenizer makes them"
            )
        return mask

    def _prefix(
        self, inputs_embeds: Tensor, hidden: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Bring in the P-Tuning prefix, which every token sees -> (keys and values for the layers, wider mask). With a
        cache it is written there, once; without one (training) the layers get it as an argument."""
        if self.prefix_encoder is None:
            return None, hidden
        if hidden is not None:
            seen = hidden.new_zeros(*hidden.shape[:3], self.prefix_encoder.pre_seq_len)
            hidden = torch.cat((seen, hidden), dim=-1)
        batch, dtype = inputs_embeds.shape[0], inputs_embeds.dtype
        if cache is None:
            return self.prefix_encoder(batch, dtype), hidden
        if not cache.get_seq_length():
            for layer_idx, (key, value) in enumerate(self.prefix_encoder(batch, dtype)):
                cache.update(key, value, layer_idx)
        return None, hidden


class ChatGLM1ForConditionalGeneration(FirstHabits, ChatGLM1PreTrainedModel, GenerationMixin):
    """The language model of the first generation."""

    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}

    def __init__(self, config: ChatGLM1Config) -> None:
        super().__init__(config)
        self.transformer = ChatGLM1Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.lm_head
        return head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

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
        """Logits [B, S or kept, vocab]; with `labels` [B, S] (not shifted, -100 ignored) the mean loss in float32.
        `logits_to_keep`: the last n (0: all), a tensor of indices, or bool [B, S] -> [kept, vocab]."""
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
        logits = self.lm_head(last_tokens(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def paged_positions(self, ids: list[int]) -> tuple[int, list[list[int]]]:
        """For an engine: how many tokens of a prompt see each other, and the rows of positions of ids [S].

        Raises:
            RequestError: a prompt without `<sop>`, or without a mask token.
        """
        config, known = self.config, set(ids)
        mask_id = config.gmask_token_id if config.gmask_token_id in known else config.mask_token_id
        if config.bos_token_id not in known or mask_id not in known:
            raise RequestError(
                "the prompt has no [gMASK] <sop>; every prompt of ChatGLM-6B ends with them, as its tokenizer makes it"
            )
        context, length = ids.index(config.bos_token_id), len(ids)
        if not config.position_encoding_2d:
            raise RequestError("an engine needs position_encoding_2d, as every release has it; call generate()")
        stays = [ids.index(mask_id)] * (length - context)
        return context, [[*range(context), *stays], [*[0] * context, *range(1, length - context + 1)]]

    # generate()

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. `attention_mask` [B, S] of 0 and 1, or bool [B, 1, S, S] as the tokenizer makes it.

        Without one nothing is guessed from pad ids: every token counts as text, as officially.
        """
        ids, mask = kwargs.get("input_ids", inputs), kwargs.get("attention_mask")
        if mask is None and isinstance(ids, Tensor):
            kwargs["attention_mask"] = torch.ones_like(ids)
        elif isinstance(mask, Tensor) and mask.dim() == 4:
            kwargs["attention_mask"] = real = (~mask[:, 0, -1]).long()
            if not torch.equal(mask, positions.hidden_columns(_needed(ids), self.config, real)):
                raise PromptError(
                    "attention_mask is not the tokenizer's, the context visible and padding hidden; generate() follows "
                    "no other"
                )
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]

    def _prepare_position_ids_for_generation(self, *_: Any, **__: Any) -> None:
        """The positions of a prompt follow from its ids, see `prepare_inputs_for_generation`."""

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The inputs of one step: the last ids, their positions (by all ids, where none were given), and the mask."""
        length, past = input_ids.shape[1], self.transformer._past_length(past_key_values)
        new = length - past if next_sequence_length is None else next_sequence_length
        if attention_mask is not None:
            ones = attention_mask.new_ones(len(input_ids), max(0, length - attention_mask.shape[1]))
            attention_mask = torch.cat((attention_mask, ones), dim=1)[:, :length]
        if position_ids is None:
            position_ids = positions.make_position_ids(input_ids, self.config, attention_mask)
        elif position_ids.shape[-1] < length:
            position_ids = positions.next_positions(position_ids, length - position_ids.shape[-1])
        if past and attention_mask is None and new > 1:  # several at once, as lookups draft them
            attention_mask = torch.ones_like(input_ids)
        return {
            "input_ids": input_ids[:, -new:].contiguous(),
            "position_ids": position_ids[..., length - new : length].contiguous(),
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            **{key: value for key, value in kwargs.items() if key not in ("labels", "inputs_embeds")},
        }

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        """The cache alone: mask and positions grow where the inputs of a step are made."""
        model_kwargs["past_key_values"] = outputs.get("past_key_values")
        return model_kwargs


def _needed(ids: Tensor | None) -> Tensor:
    if ids is None:
        raise PromptError("inputs_embeds need attention_mask [batch, 1, new, all] and position_ids: ids would say them")
    return ids


def _additive(hidden: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A finite value, so that a row that sees nothing is uniform over all columns, as officially, and no NaN."""
    if hidden is None:
        return None
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
