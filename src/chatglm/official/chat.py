"""The official calling habits: `chat`, `stream_chat`, `stream_generate`, `quantize` and ChatGLM2's prompt builders.

Same arguments and, where the official code is right, the same results. What it does wrong is put right here and listed
in `docs/models.md`: nothing is evaluated, the caller's history and lists are left alone, the last token is kept when
the length limit ends an answer, tools can be streamed, and every turn sees the whole conversation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from chatglm.chat import response
from chatglm.chat.message import CodeDone, Message, Role, TextDelta, ToolCallDone
from chatglm.chat.parser import Segment
from chatglm.errors import PromptError
from chatglm.official import streaming
from chatglm.official.options import refuse
from chatglm.official.reply import reply
from chatglm.own_engine import check_pair, forget_engine, unwrapped

History = list[Any]  # ChatGLM3: official dicts; ChatGLM2: (query, answer) pairs


class EarlierTurns:
    """Stands where the official code hands out `past_key_values`.

    Earlier turns are found in the engine's own cache by their tokens, so there is nothing to carry around. Passing
    this object back is allowed and has no effect.
    """

    def __repr__(self) -> str:
        return "EarlierTurns(kept by the engine)"


def chat(
    model: Any,
    tokenizer: Any,
    query: str,
    history: Sequence[Any] | None = None,
    role: str = "user",
    max_length: int = 8192,
    num_beams: int = 1,
    do_sample: bool = True,
    top_p: float = 0.8,
    temperature: float = 0.8,
    logits_processor: Any = None,
    **kwargs: Any,
) -> tuple[str | dict[str, Any], History]:
    """Answer `query` after `history`: -> (response, history with both).

    The response is a text; a dict `{"name", "parameters"}` for a call of a tool offered in the first history item
    (`{"name", "content", "error"}` if it cannot be read); `{"name": "interpreter", "content"}` for code. With a
    ChatGLM2 tokenizer the history is a list of pairs. It samples unless `do_sample=False`. Further options:
    `seed`; `bad_words`, texts that must not be written in whatever tokens; and all of `generate()`.

    Raises:
        PromptError: no room for an answer within `max_length`, or an unknown role.
    """
    options = options_of(locals(), "max_length", "num_beams", "do_sample", "top_p", "temperature", "logits_processor")
    exchange = Exchange(model, tokenizer, query, history, role, options | kwargs)
    return exchange.finish(), exchange.history()


def stream_chat(
    model: Any,
    tokenizer: Any,
    query: str,
    history: Sequence[Any] | None = None,
    role: str = "user",
    past_key_values: Any = None,
    max_length: int = 8192,
    do_sample: bool = True,
    top_p: float = 0.8,
    temperature: float = 0.8,
    logits_processor: Any = None,
    return_past_key_values: bool = False,
    **kwargs: Any,
) -> Iterator[tuple[Any, ...]]:
    """As `chat`, step by step: (response so far, history so far), whole characters only.

    A call or code is given once, when it is complete. Closing the iterator ends the generation. With
    `return_past_key_values` a third value stands where the official one does; see `EarlierTurns`.

    Raises:
        PromptError: also for a `past_key_values` that was not made here.
    """
    if past_key_values is not None and not isinstance(past_key_values, EarlierTurns):
        raise PromptError(
            f"past_key_values is a {type(past_key_values).__name__}; earlier turns are found in the engine's cache "
            "by themselves. Pass history= alone, or what stream_chat returned"
        )
    options = options_of(locals(), "max_length", "do_sample", "top_p", "temperature", "logits_processor")
    exchange = Exchange(model, tokenizer, query, history, role, options | kwargs)
    extra = (EarlierTurns(),) if return_past_key_values else ()
    for said in exchange.responses():
        yield said, exchange.history(), *extra


def stream_generate(
    model: Any,
    input_ids: Tensor,
    generation_config: GenerationConfig | None = None,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    prefix_allowed_tokens_fn: Any = None,
    return_past_key_values: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """`generate()`, giving all ids [B, tokens so far] after each step. Beams have no steps to give: an error.

    Rows that have ended are filled with the pad id. With `return_past_key_values` each item is a pair whose second
    value is an `EarlierTurns`.
    """
    from chatglm.engine.parts import check_loaded

    options = options_of(
        locals(), "generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"
    )
    options = {key: value for key, value in options.items() if value is not None}
    refuse(kwargs)
    if kwargs.get("num_beams", 1) != 1:
        raise PromptError(f"num_beams={kwargs['num_beams']} cannot be streamed; call generate()")
    check_loaded(model)
    if not isinstance(input_ids, Tensor):
        raise PromptError(f"input_ids is {input_ids!r:.200}; it must be a tensor of ids [B, tokens]")
    ids = input_ids.repeat_interleave(kwargs.get("num_return_sequences", 1), dim=0)
    for step in streaming.stream_generate(model, {"input_ids": input_ids}, **options, **kwargs):
        ids = torch.cat((ids, step.to(ids.device)[:, None]), dim=1)
        yield (ids, EarlierTurns()) if return_past_key_values else ids


def forget_earlier_turns(model: Any) -> None:
    """Drop what is kept of earlier conversations, and its memory.

    Changes of the weights are noticed by themselves where torch counts them; after many single values were written
    through `.data`, call this.
    """
    forget_engine(model)


def process_response(
    model: Any, output: str, history: Sequence[dict[str, Any]]
) -> tuple[str | dict[str, Any], list[dict[str, Any]]]:
    """The official splitting of a decoded answer; see `chatglm.chat.response`."""
    return response.process_response(output, history)


def build_inputs(model: Any, tokenizer: Any, query: str, history: Sequence[tuple[str, str]] | None = None) -> Any:
    """ChatGLM2's prompt as tensors on the model's device."""
    check_pair(model, tokenizer, "model.build_inputs(tokenizer, query)")
    prompt = tokenizer.build_prompt(query, history=history)
    return tokenizer([prompt], return_tensors="pt").to(_device(model))


def build_stream_inputs(
    model: Any, tokenizer: Any, query: str, history: Sequence[tuple[str, str]] | None = None
) -> Any:
    """ChatGLM2's piece for one more turn over an old cache; the whole prompt where there is no history."""
    check_pair(model, tokenizer, "model.build_stream_inputs(tokenizer, query)")
    if not history:
        return tokenizer([f"[Round 1]\n\n问：{query}\n\n答："], return_tensors="pt").to(_device(model))
    ids = tokenizer.tokenizer.encode(f"\n\n[Round {len(history) + 1}]\n\n问：{query}\n\n答：")[1:]
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    inputs["position_ids"] = torch.arange(len(ids))[None]
    return BatchEncoding(inputs).to(_device(model))


def quantize(model: Any, bits: int | str, empty_init: bool = False, device: Any = None, **kwargs: Any) -> Any:
    """Store the linears of every layer in 8 or 4 bits, in place.

    `quantize(4)` and `quantize(8)` are the official row-wise scheme, bit for bit; unlike there no GPU is needed. A
    name chooses another one: `quantize("int4")`, groups of 32 columns, loses far less (docs/quantization.md). A
    model that is quantized already with the same bits stays as it is.
    """
    from chatglm.quant.model import quantize_model, quantize_rowwise

    if empty_init:
        raise PromptError("empty_init=True makes a model without weights; load a quantized folder instead")
    if kwargs:
        raise TypeError(f"quantize() got unknown options {sorted(kwargs)}; it takes bits and device")
    network = unwrapped(model)
    assert isinstance(network, nn.Module)
    if isinstance(bits, str):
        quantize_model(network, bits)
    else:
        quantize_rowwise(network, bits)
    return model if device is None else model.to(device)


class Exchange:
    """One query and its answer in the official form of a conversation."""

    def __init__(
        self, model: Any, tokenizer: Any, query: str, history: Sequence[Any] | None, role: str, options: dict[str, Any]
    ) -> None:
        check_pair(model, tokenizer, "model.chat(tokenizer, query)")
        if not isinstance(query, str):
            raise PromptError(f"query is {query!r:.200}; it must be a text. A conversation so far is history=")
        self.pairs = tokenizer.version != "chatglm3"
        self.before: History = _checked_history(history, self.pairs)
        self.query, self.role = query, role
        self.offers_tools = bool(self.before) and not self.pairs and "tools" in self.before[0]
        config = options.get("generation_config")
        if (options.get("max_new_tokens") or getattr(config, "max_new_tokens", None)) is not None:
            options = options | {"max_length": None}  # as in transformers
        self.answer = reply(model, tokenizer, self._messages(), **options)
        self.shown = ""  # all text deltas so far

    def _messages(self) -> list[Any]:
        if not self.pairs:
            return [*self.before, {"role": self.role, "content": self.query}]
        turns = [
            Message(role, text)
            for pair in self.before
            for role, text in zip((Role.USER, Role.ASSISTANT), pair, strict=True)
        ]
        return [*turns, Message(Role.USER, self.query)]

    def responses(self) -> Iterator[str | dict[str, Any]]:
        """The response after each event that changed it."""
        for event in self.answer:
            if isinstance(event, TextDelta):
                self.shown += event.text
            if isinstance(event, (TextDelta, ToolCallDone, CodeDone)):
                yield self.response()

    def finish(self) -> str | dict[str, Any]:
        for _ in self.responses():
            pass
        return self.response()

    @property
    def open_text(self) -> str:
        """What has been shown of the segment being written: deltas of a segment join to its displayed text."""
        closed = sum(len(segment.display) for segment in self.answer.segments if segment.kind == "text")
        return self.shown[closed:]

    def response(self) -> str | dict[str, Any]:
        if self.open_text or not self.answer.segments:
            return self.open_text
        last = self.answer.segments[-1]
        return last.display if last.kind == "text" else _called(last, self.offers_tools)

    def history(self) -> History:
        """The conversation as far as it has come, never the caller's own list."""
        if self.pairs:
            return [*self.before, (self.query, self.response())]
        written = [(segment.metadata, segment.content) for segment in self.answer.segments]
        if self.open_text:
            written.append(("", self.open_text))
        return [
            *self.before,
            {"role": self.role, "content": self.query},
            *({"role": "assistant", "metadata": metadata, "content": content} for metadata, content in written),
        ]


def _checked_history(history: Any, pairs: bool) -> History:
    if history is None:
        return []
    if isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Iterable):
        raise PromptError(f"history is {history!r:.200}; it must be a list, as chat returns it")
    return [_checked(item, pairs) for item in history]


def _checked(item: Any, pairs: bool) -> Any:
    """A copy of one history item in its official form."""
    if pairs:
        if isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(text, str) for text in item):
            return tuple(item)
        raise PromptError(f"a history of this model holds (query, answer) pairs of texts; this item is {item!r:.200}")
    if isinstance(item, Message):
        return item.to_dict()
    if isinstance(item, Mapping):
        return dict(item)
    raise PromptError(f"a ChatGLM3 history holds dicts with role and content; this item is {item!r:.200}")


def _called(segment: Segment, offers_tools: bool) -> dict[str, Any]:
    if not offers_tools or segment.call is None:
        return {"name": segment.metadata, "content": segment.content}
    if segment.call.arguments is None:
        return {"name": segment.metadata, "content": segment.content, "error": segment.call.error}
    return {"name": segment.metadata, "parameters": segment.call.arguments}


def options_of(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: arguments[name] for name in names}


def _device(model: Any) -> torch.device:
    device: torch.device = model.device
    return device
