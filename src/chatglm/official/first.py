"""The official calling habits of ChatGLM-6B, where they differ from those of the later generations."""

from collections.abc import Iterator, Sequence
from typing import Any

from chatglm.chat import first_rounds
from chatglm.errors import PromptError
from chatglm.official.chat import Exchange, History, options_of


def chat(
    model: Any,
    tokenizer: Any,
    query: str,
    history: Sequence[Any] | None = None,
    max_length: int = 2048,
    num_beams: int = 1,
    do_sample: bool = True,
    top_p: float = 0.7,
    temperature: float = 0.95,
    logits_processor: Any = None,
    **kwargs: Any,
) -> tuple[str, History]:
    """Answer `query` after `history`, a list of (query, answer) pairs: -> (response, history with both).

    It samples unless `do_sample=False`. Further options: `seed`; `bad_words`, texts that must not be written; and all
    of `generate()`. Only what is said counts: the model knows no roles, tools and code.

    Raises:
        PromptError: no room for an answer within `max_length`, or a role.
    """
    options = options_of(locals(), "max_length", "num_beams", "do_sample", "top_p", "temperature", "logits_processor")
    exchange = _exchange(model, tokenizer, query, history, options | kwargs)
    return str(exchange.finish()), exchange.history()


def stream_chat(
    model: Any,
    tokenizer: Any,
    query: str,
    history: Sequence[Any] | None = None,
    max_length: int = 2048,
    do_sample: bool = True,
    top_p: float = 0.7,
    temperature: float = 0.95,
    logits_processor: Any = None,
    **kwargs: Any,
) -> Iterator[tuple[str, History]]:
    """As `chat`, step by step: (response so far, history so far). Closing the iterator ends the generation."""
    options = options_of(locals(), "max_length", "do_sample", "top_p", "temperature", "logits_processor")
    exchange = _exchange(model, tokenizer, query, history, options | kwargs)
    for said in exchange.responses():
        yield str(said), exchange.history()


def process_response(model: Any, response: str) -> str:
    """The official form of a decoded answer; see `chatglm.chat.first_rounds`."""
    return first_rounds.process_response(response)


def build_stream_inputs(model: Any, tokenizer: Any, query: str, history: Any = None) -> Any:
    """ChatGLM2's piece for one more turn, which has no meaning here: a prompt of ChatGLM-6B sees itself both ways.

    Raises:
        PromptError: always.
    """
    raise PromptError("ChatGLM-6B cannot go on over an old cache: every prompt is read as a whole; use build_inputs")


def _exchange(model: Any, tokenizer: Any, query: str, history: Any, options: dict[str, Any]) -> Exchange:
    if (role := options.pop("role", "user")) != "user":
        raise PromptError(f"role is {role!r}; ChatGLM-6B knows no roles, only what users ask")
    return Exchange(model, tokenizer, query, history, "user", options)
