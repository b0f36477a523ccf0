"""One answer of a model to a conversation, by the official options: an `Answer` whose tokens the model's engine makes.

What only `generate()` can do (beams, a caller's own logits processors, adapters beside the modules) is asked there.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch

from chatglm.chat.message import Message, Role, as_messages
from chatglm.chat.template import tool_names
from chatglm.errors import GenerationError
from chatglm.official.options import Options
from chatglm.official.streaming import stream_generate
from chatglm.own_engine import adapters_beside_modules, check_pair, engine_for

if TYPE_CHECKING:
    from chatglm.agent.answer import Answer


def reply(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    stop: threading.Event | None = None,
    tools: Collection[str] | bool | None = None,
    **options: Any,
) -> "Answer":
    """The answer to `messages`, which iterating it makes.

    Args:
        model: a language model of this package, also in a peft wrapper.
        tokenizer: its tokenizer; it decides between the ChatGLM2 and the ChatGLM3 format.
        messages: messages or official dicts.
        stop: setting it ends the answer after the token it is at.
        tools: names the answer may call, for telling calls from text; None reads them from the messages.
        options: as for `generate()`: max_length or max_new_tokens, do_sample, temperature, stop_strings, ...; `seed`:
            same seed, same answer; see `Options`.

    Raises:
        PromptError: the conversation fills the allowed length before the answer begins; see also `Options`.
        RequestError: no model or no tokenizer where one is expected, a value out of range.
    """
    from chatglm.agent.answer import Answer

    check_pair(model, tokenizer, "model.chat(tokenizer, query)")
    conversation, stop = as_messages(messages), stop or threading.Event()
    asked = Options(model, options)
    prompt_ids = tokenizer.render(conversation).ids
    stop_ids = asked.stop_ids(tokenizer.stop_ids)
    room = asked.room(len(prompt_ids) + _virtual_tokens(model), int(model.config.max_position_embeddings))
    beside = adapters_beside_modules(model)
    engine = tokens = None
    if asked.need_generate(None if beside is None else f"the adapter ({beside})"):
        without_text = range(len(tokenizer), int(model.config.vocab_size))
        generation = asked.generation(len(prompt_ids), room, stop_ids, without_text)
        tokens = _generated(model, prompt_ids, asked, generation, stop)
    else:
        engine = engine_for(model, tokenizer)
    parser = tokenizer.stream_parser(offered_names(conversation) if tools is None else tools)
    params = asked.sampling(len(prompt_ids), room, stop_ids)
    return Answer(engine, prompt_ids, parser, params, stopped=stop.is_set, tokens=tokens)


def offered_names(messages: Sequence[Message]) -> Collection[str] | bool:
    """Names of the tools the system message offers; True where it offers something without names; False: nothing."""
    tools = messages[0].tools if messages and messages[0].role is Role.SYSTEM else None
    return False if tools is None else tool_names(tools) or True


def _generated(
    model: Any, prompt_ids: list[int], asked: Options, options: dict[str, Any], stop: threading.Event
) -> Iterator[int]:
    """The tokens that `generate()` chooses, as they are made; with beams at the end."""
    _refuse_if_busy(model)
    ids = torch.tensor([prompt_ids], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if asked.num_beams == 1:
        with closing(stream_generate(model, inputs, stop=stop, seed=asked.seed, **options)) as steps:
            yield from (int(step[0]) for step in steps)
        return
    if asked.seed is not None:
        torch.manual_seed(asked.seed)
    yield from model.generate(**inputs, **options)[0, len(prompt_ids) :].tolist()


def _refuse_if_busy(model: Any) -> None:
    """peft puts a method of the wrapper on the model while it generates, so one answer at a time can go through it."""
    name = "prepare_inputs_for_generation"
    if hasattr(model, "peft_config") and vars(model.base_model).get(name) == getattr(model, name):
        raise GenerationError("another answer is being made through this adapter; read it to its end, or close it")


def _virtual_tokens(model: Any) -> int:
    """Places in the context that an adapter takes."""
    config = getattr(model, "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0
