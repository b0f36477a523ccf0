"""One answer of a model to a conversation: prompt, tokens, events, segments. Used by `model.chat` and by the terminal.

Answers come from the engine; what only `generate()` can do (beams, a caller's own logits processors, ...) goes there.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from chatglm.chat.answer import Answer, Token
from chatglm.chat.message import Message, Role, as_messages
from chatglm.chat.parser import StreamParser
from chatglm.chat.template import tool_names
from chatglm.errors import PromptError
from chatglm.official.own_engine import engine_for
from chatglm.official.streaming import stream_generate

if TYPE_CHECKING:
    from chatglm.engine.request import SamplingParams
    from chatglm.engine.stopping import AnswerStops

# Our names on the left, generate()'s on the right; whatever is not here is for generate() alone.
_ENGINE_OPTIONS = {
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "bad_words_ids", "min_new_tokens", "do_sample",
    "presence_penalty", "frequency_penalty", "bad_words", "draft",
}  # fmt: skip
_NEUTRAL: dict[str, Any] = {"num_beams": 1, "logits_processor": None, "use_cache": True, "stopping_criteria": None}
_ENGINE_ONLY = {"presence_penalty", "frequency_penalty", "bad_words", "draft"}
_SAMPLING_ONLY = ("temperature", "top_p", "top_k", "min_p")


class Reply(Answer):
    """The answer to `messages`, while it is made.

    Iterating it runs the model and gives `TextDelta`, `ToolCallDelta`, `ToolCallDone`, `CodeDone` and at the end
    `Done`, whose reason is "stop", "length" or "abort". `segments` and `messages()` are right at any moment after.

    Args:
        model: a language model of this package.
        tokenizer: its tokenizer; it decides between the ChatGLM2 and the ChatGLM3 format.
        messages: messages or official dicts.
        stop: setting it ends the answer after the token it is at.
        stop_strings: texts that end the answer, wherever the token borders fall; neither they nor what follows is said.
        seed: same seed, same answer.
        tools: names the answer may call, for telling calls from text; None reads them from the messages.
        options: as for `generate()`: max_length or max_new_tokens, do_sample, temperature, top_p, ...

    Raises:
        PromptError: the conversation fills the allowed length before the answer begins.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        stop: threading.Event | None = None,
        stop_strings: Sequence[str] = (),
        seed: int | None = None,
        tools: Collection[str] | bool | None = None,
        **options: Any,
    ) -> None:
        conversation = as_messages(messages)
        self.model, self.stop, self.seed = model, stop or threading.Event(), seed
        self.tokenizer = tokenizer
        self.stop_ids = _ids(options.pop("eos_token_id", None)) or frozenset(tokenizer.stop_ids)
        parser = tokenizer.stream_parser(offered_names(conversation) if tools is None else tools)
        parser.stop_ids = self.stop_ids
        self._stops = _watch(parser, stop_strings)
        super().__init__(tokenizer.render(conversation).ids, parser, self.stop.is_set)
        _refuse_other_results(options)
        self.options = {key: value for key, value in options.items() if _NEUTRAL.get(key, self) != value}
        self.max_new_tokens = self._room()

    def _cut_off(self) -> bool:
        return self._stops is not None and self._stops.found

    def _room(self) -> int:
        """Tokens the answer may have: what `max_length`, the context and `max_new_tokens` all allow."""
        context = int(self.model.config.seq_length)
        length, wanted = self.options.pop("max_length", None), self.options.pop("max_new_tokens", None)
        limit = context if length is None else min(int(length), context)
        if self.prompt_tokens >= limit:
            what = "the model's context" if limit == context else "max_length"
            raise PromptError(
                f"the conversation has {self.prompt_tokens} tokens and {what} is {limit}: no room for an answer. "
                "Drop earlier turns, or allow more"
            )
        if wanted is not None and int(wanted) < 1:
            raise PromptError(f"max_new_tokens is {wanted}; it must be at least 1")
        room = limit - self.prompt_tokens
        return room if wanted is None else min(room, int(wanted))

    def _tokens(self) -> Iterator[Token]:
        """(token, None) for every token of the answer, then (stop token or None, "stop" or "length")."""
        only_generate = sorted(set(self.options) - _ENGINE_OPTIONS)
        if not only_generate:
            yield from self._tokens_of_engine()
            return
        mixed = sorted(set(self.options) & _ENGINE_ONLY)
        if mixed:
            raise PromptError(f"{', '.join(only_generate)} cannot be combined with {', '.join(mixed)}")
        yield from self._tokens_of_generate()

    def _tokens_of_engine(self) -> Iterator[Token]:
        from chatglm.engine.tokens import stream_tokens

        engine = engine_for(self.model, self.tokenizer)
        yield from stream_tokens(engine, engine.submit(self.prompt_ids, self._sampling()), self.stop.is_set)

    def _sampling(self) -> "SamplingParams":
        from chatglm.engine.request import SamplingParams

        options = dict(self.options)
        min_tokens = options.pop("min_new_tokens", 0)
        if not options.pop("do_sample", True):
            options = {key: value for key, value in options.items() if key not in _SAMPLING_ONLY} | {"temperature": 0}
        elif options.get("top_p") == 0:  # transformers keeps the likeliest token then
            options |= {"top_p": 1.0, "top_k": 1}
        # Without a seed of its own an answer follows torch's, so that torch.manual_seed() repeats it.
        seed = self.seed if self.seed is not None else int(torch.randint(2**63 - 1, ()))
        return SamplingParams(
            seed=seed,
            max_tokens=self.max_new_tokens,
            min_tokens=min(min_tokens, self.max_new_tokens),
            stop_token_ids=sorted(self.stop_ids),
            **options,
        )

    def _tokens_of_generate(self) -> Iterator[Token]:
        device = self.model.device
        inputs = {"input_ids": torch.tensor([self.prompt_ids], device=device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        options = {
            "eos_token_id": sorted(self.stop_ids),
            "pad_token_id": 0,
            "max_new_tokens": self.max_new_tokens,
            # Rows of the output layer that have no text; the engine masks them too.
            "suppress_tokens": list(range(len(self.tokenizer), int(self.model.config.padded_vocab_size))) or None,
        } | self.options
        if not options.get("do_sample", True):
            options = {key: value for key, value in options.items() if key not in _SAMPLING_ONLY}
        steps: Iterator[int] = (int(step[0]) for step in self._steps(inputs, options))
        for token_id in steps:
            if token_id in self.stop_ids:
                yield token_id, "stop"
                return
            yield token_id, None
        yield None, "length"

    def _steps(self, inputs: dict[str, Any], options: dict[str, Any]) -> Iterator[Any]:
        if options.get("num_beams", 1) == 1:
            yield from stream_generate(self.model, inputs, stop=self.stop, seed=self.seed, **options)
            return
        if self.seed is not None:
            torch.manual_seed(self.seed)
        sequences = self.model.generate(**inputs, **options)[:1, self.prompt_tokens :]
        yield from sequences.T


def offered_names(messages: Sequence[Message]) -> Collection[str] | bool:
    """Names of the tools the system message offers; True where it offers something without names; False: nothing."""
    tools = messages[0].tools if messages and messages[0].role is Role.SYSTEM else None
    return False if tools is None else tool_names(tools) or True


def _watch(parser: StreamParser, stop_strings: Sequence[str]) -> "AnswerStops | None":
    """Have a parser see the text up to the first stop string only."""
    if isinstance(stop_strings, str) or not all(isinstance(text, str) and text for text in stop_strings):
        raise PromptError(f"stop_strings is {stop_strings!r}; it must be a list of texts, none empty")
    if not stop_strings:
        return None
    from chatglm.engine.stopping import AnswerStops

    stops = AnswerStops(parser.decoder, stop_strings)
    parser.decoder = stops
    return stops


def _ids(given: int | Sequence[int] | None) -> frozenset[int]:
    return frozenset() if given is None else frozenset({given} if isinstance(given, int) else given)


def _refuse_other_results(options: Mapping[str, Any]) -> None:
    """What makes `generate()` give something else than one sequence of ids has no meaning in a conversation."""
    for name in ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions"):
        if options.get(name):
            raise PromptError(f"{name}=True has no meaning in a conversation, whose result is text; call generate()")
