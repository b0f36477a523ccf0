"""Answers by a loaded model."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from typing import Any

from chatglm.chat.message import Message
from chatglm.chat.saved import vocabulary_of
from chatglm.terminal.responder import EMBEDDED, Reply
from chatglm.terminal.sampling import Sampling


class ModelResponder:
    """A model of this package and its tokenizer as a `Responder`."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.name = name
        self.context_length = int(model.config.seq_length)
        self.vocabulary = vocabulary_of(tokenizer)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation, up to where the next answer begins."""
        return len(self.tokenizer.render(messages).ids)

    def engine(self) -> Any:
        """The engine that answers."""
        from chatglm.official.own_engine import engine_for

        return engine_for(self.model, self.tokenizer)

    def reply(
        self, messages: Sequence[Message], sampling: Sampling, *, seed: int | None, stop: threading.Event
    ) -> Reply:
        """Begin an answer; see `chatglm.official.reply.Reply`."""
        from chatglm.official.reply import Reply as ModelReply

        options = sampling.generation_options()
        return ModelReply(self.model, self.tokenizer, messages, stop=stop, seed=seed, **options)


def load_responder(options: argparse.Namespace) -> ModelResponder:
    """Load the model that the options of `chatglm chat` name.

    Raises:
        ChatGLMError: see `chatglm.loading.load`.
    """
    _quiet()
    from chatglm.loading import load

    model, tokenizer = load(
        options.model,
        dtype=options.dtype,
        device=options.device,
        quantize=options.quantize,
        hub=options.hub,
        adapter=options.adapter,
        prefix=options.prefix,
        rope_ratio_meaning=options.rope_ratio_meaning,
        cache=False if options.no_cache else None,
    )
    return ModelResponder(model, tokenizer, EMBEDDED if options.model is None else options.model)


def _quiet() -> None:
    """No progress bar for reading weights: bars are for downloads, which take minutes."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
