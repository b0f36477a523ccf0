"""What can be said of a request before anything is run: what could never be carried out is refused, with numbers."""

from itertools import chain
from typing import TYPE_CHECKING

from chatglm.engine.request import Request
from chatglm.errors import RequestError

if TYPE_CHECKING:
    from chatglm.engine.engine import Engine


def check_request(engine: "Engine", request: Request, num_new: int = 1) -> None:
    """Raise `RequestError` for what can never be carried out; else set how far the request may grow."""
    params, length = request.params, len(request.prompt_ids)
    size = int(engine.model.config.vocab_size)
    for name, ids in (
        ("token id", request.token_ids), ("logit_bias for id", params.logit_bias),
        ("stop token", request.stop_ids), ("bad_words_ids with id", chain.from_iterable(params.bad_words_ids)),
    ):  # fmt: skip
        wrong = [token for token in ids if not 0 <= token < size]
        if wrong:
            raise RequestError(f"{name} {wrong[0]} is outside the vocabulary of {size} tokens")
    if length + num_new > engine.context:
        raise RequestError(
            f"the prompt has {length} tokens and the model's context is {engine.context}; "
            f"at most {engine.context - num_new} leave room for an answer"
        )
    most = min(engine.context, engine.blocks.num_tokens)
    request.max_total = most if params.max_tokens is None else min(engine.context, length + params.max_tokens)
    if max(request.max_total, length + num_new) > engine.blocks.num_tokens:
        raise RequestError(
            f"prompt ({length} tokens) and answer (up to {request.max_total - length}) need {request.max_total} "
            f"tokens of cache and there are {engine.blocks.num_tokens}; shorten them or raise kv_memory"
        )
    if params.stop and engine.new_decoder is None:
        raise RequestError("stop strings need a decoder; make the engine with new_decoder=")
    if params.bad_words and engine.token_texts is None:
        raise RequestError("bad_words need to know what tokens mean; make the engine with token_texts=")
    if params.draft == "model" and not engine.drafter.has_model:
        raise RequestError('draft="model" needs a draft model; make the engine with draft_model=')
