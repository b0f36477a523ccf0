"""What can be said of a request before anything is run: what could never be carried out is refused, with numbers."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain

from chatglm.engine.request import Request
from chatglm.errors import RequestError


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can do.

    Args:
        vocabulary, context, cache: in tokens.
        has_decoder, has_texts, has_draft_model: whether it was made with these.
    """

    vocabulary: int
    context: int
    cache: int
    has_decoder: bool
    has_texts: bool
    has_draft_model: bool

    def check(self, request: Request) -> None:
        """Raise `RequestError` for what can never be carried out; else set how far the request may grow."""
        params = request.params
        self._check_ids(request)
        self._check_size(request)
        if params.stop and not self.has_decoder:
            raise RequestError("stop strings need a decoder; make the engine with new_decoder=")
        if params.bad_words and not self.has_texts:
            raise RequestError("bad_words need to know what tokens mean; make the engine with token_texts=")
        if params.draft == "model" and not self.has_draft_model:
            raise RequestError('draft="model" needs a draft model; make the engine with draft_model=')

    def _check_ids(self, request: Request) -> None:
        params = request.params
        named: tuple[tuple[str, Collection[int]], ...] = (
            ("token id", request.token_ids), ("logit_bias for id", params.logit_bias),
            ("stop token", request.stop_ids), ("bad_words_ids with id", [*chain.from_iterable(params.bad_words_ids)]),
        )  # fmt: skip
        for name, ids in named:
            if ids and not (min(ids) >= 0 and max(ids) < self.vocabulary):
                wrong = next(token for token in ids if not 0 <= token < self.vocabulary)
                raise RequestError(f"{name} {wrong} is outside the vocabulary of {self.vocabulary} tokens")

    def _check_size(self, request: Request) -> None:
        params, length, least = request.params, len(request.prompt_ids), int(request.generates)
        if length + least > self.context:
            room = f"; at most {self.context - 1} leave room for an answer" if least else ""
            raise RequestError(f"the prompt has {length} tokens and the model's context is {self.context}{room}")
        if not request.generates:
            request.max_total = length
        elif params.max_tokens is None:
            request.max_total = min(self.context, self.cache)
        else:
            request.max_total = min(self.context, length + params.max_tokens)
        if max(request.max_total, length + least) > self.cache:
            raise RequestError(
                f"prompt ({length} tokens) and answer (up to {request.max_total - length}) need {request.max_total} "
                f"tokens of cache and there are {self.cache}; shorten them or raise kv_memory"
            )
