"""Log-likelihoods of given continuations, through the same cache and the same network as generation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from chatglm.engine.request import Request, SamplingParams
from chatglm.engine.results import Score
from chatglm.engine.scheduler import Piece
from chatglm.errors import RequestError

if TYPE_CHECKING:
    from chatglm.engine.engine import Engine


def score(engine: "Engine", prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Score:
    """`Engine.score`, under the engine's lock."""
    if not continuation_ids:
        raise RequestError("the continuation has no tokens; at least one is needed")
    request = Request([*prompt_ids, *continuation_ids], SamplingParams(max_tokens=1), frozenset())
    request.prompt_ids = list(prompt_ids)
    engine.check_request(request, len(continuation_ids))
    logprobs = _positions(engine, request)
    chosen = torch.tensor(list(continuation_ids), device=logprobs.device)
    values = logprobs.gather(1, chosen[:, None])[:, 0]
    greedy = bool((logprobs.argmax(dim=1) == chosen).all())
    return Score(float(values.sum()), tuple(values.tolist()), greedy)


def _positions(engine: "Engine", request: Request) -> torch.Tensor:
    """Log-probabilities [n, vocab] at the positions that predict the continuation's n tokens."""
    blocks, end = engine.blocks, len(request.token_ids) - 1
    request.max_total = end + 1
    first_wanted = len(request.prompt_ids) - 1
    parts = []
    try:
        _admit(engine, request, first_wanted)
        while request.num_computed < end:
            piece = Piece(request, min(engine.config.max_batch_tokens, end - request.num_computed))
            first = min(max(0, first_wanted - request.num_computed), piece.num_tokens)
            logits = engine.runner.logits(piece, first)
            if len(logits):
                parts.append(logits.log_softmax(dim=-1))
            request.num_computed += piece.num_tokens
            blocks.commit(request)
    finally:
        blocks.free(request)
    return torch.cat(parts)


def _admit(engine: "Engine", request: Request, first_wanted: int) -> None:
    """Take blocks; requests that run now make room by being finished first."""
    blocks = engine.blocks
    while True:
        blocks.admit(request)
        if request.num_computed > first_wanted:  # what is found in the cache has no logits: keep only the prompt
            request.num_computed = first_wanted // blocks.block_size * blocks.block_size
            blocks.shrink(request, request.num_computed)
        if blocks.extend(request, len(request.token_ids)):
            return
        blocks.free(request)  # while this one waits, the others may need them
        if not engine.scheduler.has_work:
            raise RequestError(f"{len(request.token_ids)} tokens to score do not fit into the cache")
        engine.step()
