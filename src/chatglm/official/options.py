"""What `generate()` calls its options, as settings of the engine; and which of them only `generate()` can carry out.

Every field of a `GenerationConfig` stands in one of the tables here, or is handed to `generate()` as it is.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from chatglm.errors import PromptError

if TYPE_CHECKING:
    from chatglm.engine.request import SamplingParams

# The engine has the same under the same name. `prompt_lookup_num_tokens` is its draft="lookup".
_ENGINE = {
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "bad_words_ids", "do_sample", "seed",
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "eos_token_id", "stop_strings",
    "presence_penalty", "frequency_penalty", "bad_words", "draft", "prompt_lookup_num_tokens",
}  # fmt: skip
_ENGINE_ONLY = {"presence_penalty", "frequency_penalty", "bad_words", "draft"}
_SAMPLING_ONLY = ("temperature", "top_p", "top_k", "min_p")
_LENGTHS = ("max_length", "max_new_tokens", "min_length")
# Whole numbers, and the least that each may be where nothing else says it.
_COUNTS = dict.fromkeys((*_LENGTHS, "min_new_tokens"), 0) | dict.fromkeys(
    ("prompt_lookup_num_tokens", "num_beams", "num_return_sequences"), 1
)
# These say nothing without beams, or without something that drafts tokens.
_BEAMS_ONLY = {"early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty", "low_memory"}
_DRAFTS = {"assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp"}
_DRAFTS_ONLY = {
    "max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_lookbehind",
    "assistant_confidence_threshold", "target_lookbehind", "assistant_ensemble_weight", "speculation_type",
    "is_assistant",
}  # fmt: skip
# Nothing of these can be seen in one answer to one prompt.
_WITHOUT_EFFECT = {"pad_token_id", "bos_token_id", "decoder_start_token_id", "use_cache", "continuous_batching_config"}
_ONE_IS_OFF = {
    "num_beams", "num_return_sequences", "typical_p", "length_penalty", "encoder_repetition_penalty", "guidance_scale",
    "top_h", "num_beam_groups",
}  # fmt: skip
_OTHER_RESULTS = {
    "return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "num_return_sequences",
}  # fmt: skip
_REFUSED = {
    "token_healing": "it would change the prompt; call generate()",
    "assistant_early_exit": "it changes the model for everybody meanwhile; prompt_lookup_num_tokens drafts as well",
    "use_mtp": "these models have no layers for it; prompt_lookup_num_tokens drafts as well",
}
# Not taken from a model's own generation_config: what `chat` has defaults of its own for, the ids the tokenizer knows
# better, and forms of output.
_NOT_DEFAULTS = _OTHER_RESULTS | {
    "transformers_version", "eos_token_id", "max_length", "max_new_tokens", "do_sample", "temperature", "top_p",
    "num_beams",
}  # fmt: skip


class Options:
    """The options of one answer, read.

    Args:
        model: whose `generation_config` holds below what is given.
        given: as for `generate()`, and `seed`, `bad_words`, `draft`, `presence_penalty`, `frequency_penalty`; None
            counts as not given.

    Raises:
        PromptError: an option without meaning in a conversation, or two that exclude each other.
    """

    def __init__(self, model: Any, given: Mapping[str, Any]) -> None:
        given = {name: value for name, value in given.items() if value is not None}
        options = _defaults(model, given.pop("generation_config", None)) | given
        refuse(options)
        self.options = options = {name: options[name] for name in options if _says_something(name, options)}
        for name in sorted(_OTHER_RESULTS & set(options)):
            raise PromptError(f"{name}={options[name]!r} has no meaning in a conversation, whose result is one text")
        self.only_generate = sorted(set(options) - _ENGINE)
        self.num_beams = int(options.get("num_beams", 1))

    def need_generate(self, why: str | None = None) -> bool:
        """Whether `generate()` must answer; `why` names a reason besides the options.

        Raises:
            PromptError: an option that only the engine knows is there too.
        """
        reasons = ([why] if why is not None else []) + self.only_generate
        mixed = sorted(_ENGINE_ONLY & set(self.options))
        if reasons and mixed:
            raise PromptError(f"{', '.join(reasons)} cannot be combined with {', '.join(mixed)}")
        return bool(reasons)

    def stop_ids(self, usual: Sequence[int]) -> list[int]:
        given = self.options.get("eos_token_id")
        ids = usual if given is None else torch.as_tensor(given).reshape(-1).tolist()
        return sorted(ids)

    def room(self, prompt_tokens: int, context: int) -> int:
        """Tokens the answer may have: what `max_length`, the context and `max_new_tokens` all allow.

        Raises:
            PromptError: there is no room for a token.
        """
        length, wanted = self.options.get("max_length"), self.options.get("max_new_tokens")
        limit = context if length is None else min(int(length), context)
        if prompt_tokens >= limit:
            what = "the model's context" if limit == context else "max_length"
            raise PromptError(
                f"the conversation has {prompt_tokens} tokens and {what} is {limit}: no room for an answer. "
                "Drop earlier turns, or allow more"
            )
        if wanted is not None and int(wanted) < 1:
            raise PromptError(f"max_new_tokens is {wanted}; it must be at least 1")
        room = limit - prompt_tokens
        return room if wanted is None else min(room, int(wanted))

    def sampling(self, prompt_tokens: int, room: int, stop_ids: Sequence[int]) -> "SamplingParams":
        """The engine's settings."""
        from chatglm.engine.request import SamplingParams

        options = self._without("eos_token_id", "stop_strings", *_LENGTHS)
        options = {name: value for name, value in options.items() if name in _ENGINE}
        options.pop("min_new_tokens", None)
        if options.pop("prompt_lookup_num_tokens", None) is not None:
            options.setdefault("draft", "lookup")
        if not options.pop("do_sample", True):
            options = {name: value for name, value in options.items() if name not in _SAMPLING_ONLY}
            options["temperature"] = 0
        elif options.get("top_p") == 0:  # transformers keeps the likeliest token then
            options |= {"top_p": 1.0, "top_k": 1}
        # Without a seed of its own an answer follows torch's, so that torch.manual_seed() repeats it.
        options.setdefault("seed", int(torch.randint(2**63 - 1, ())))
        return SamplingParams(
            max_tokens=room,
            min_tokens=self._least(prompt_tokens, room),
            stop_token_ids=stop_ids,
            ignore_eos=True,  # only these
            stop=self.stop_strings,
            **options,
        )

    @property
    def stop_strings(self) -> Sequence[str]:
        given = self.options.get("stop_strings", ())
        return [given] if isinstance(given, str) else given

    @property
    def seed(self) -> int | None:
        return self.options.get("seed")

    def _least(self, prompt_tokens: int, room: int) -> int:
        least, length = int(self.options.get("min_new_tokens", 0)), int(self.options.get("min_length", 0))
        return min(room, max(0, least, length - prompt_tokens))

    def generation(
        self, prompt_tokens: int, room: int, stop_ids: Sequence[int], without_text: Sequence[int]
    ) -> dict[str, Any]:
        """The same for `generate()`, with everything said that a model's `generation_config` would say otherwise.

        `without_text` are ids that must not be chosen; the engine masks them too.
        """
        options = self._without("seed", "eos_token_id", "stop_strings", *_LENGTHS)
        if least := self._least(prompt_tokens, room):
            options["min_new_tokens"] = least
        unwanted = sorted({*without_text, *options.pop("suppress_tokens", ())})
        neutral: dict[str, Any] = dict.fromkeys(_OTHER_RESULTS, False) | {"num_beams": 1, "num_return_sequences": 1}
        options = neutral | {"stop_strings": None, "do_sample": True} | options
        if not options["do_sample"]:
            options = {name: value for name, value in options.items() if name not in _SAMPLING_ONLY}
        return options | {
            "eos_token_id": list(stop_ids),
            "pad_token_id": 0,
            "max_new_tokens": room,
            "min_length": 0,
            "suppress_tokens": unwanted or None,
        }

    def _without(self, *names: str) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name not in names}


def refuse(options: Mapping[str, Any]) -> None:
    """Name what cannot be carried out token by token, and counts that are none.

    Raises:
        PromptError: one of the options, and why.
    """
    for name, least in _COUNTS.items():
        value = options.get(name)
        if value is not None and not _counts(value, least):
            raise PromptError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    for name in sorted(set(_REFUSED) & set(options)):
        if options[name]:
            raise PromptError(f"{name}={options[name]!r} cannot be used here: {_REFUSED[name]}")


def _counts(value: Any, least: int) -> bool:
    """Whether it is a whole number, of Python, numpy or torch."""
    try:
        return not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        return False


def _defaults(model: Any, given: GenerationConfig | None) -> dict[str, Any]:
    """Settings in force below the explicit ones: those of a `generation_config`, and transformers' own top_k of 50."""
    config = (given if given is not None else model.generation_config).to_diff_dict()
    names = {name for name in config if not name.startswith("_")}
    names -= _NOT_DEFAULTS if given is None else {"transformers_version"}
    return {"top_k": 50} | {name: config[name] for name in names if config[name] is not None}


def _says_something(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an option has an effect beside the others."""
    value = options[name]
    if name in _ENGINE:
        return True
    if name in _WITHOUT_EFFECT or (name in _ONE_IS_OFF and value == 1):
        return False
    if name in _BEAMS_ONLY and options.get("num_beams", 1) == 1:
        return False
    if name in _DRAFTS_ONLY and not _DRAFTS & set(options):
        return False
    return isinstance(value, Tensor) or bool(value)
