"""Log-likelihoods of given continuations, through the same cache and the same network as generation."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from chatglm.engine.checks import check_request
from chatglm.engine.request import Request, SamplingParams, token_ids_of
from chatglm.engine.results import Score
from chatglm.engine.scheduler import Piece
from chatglm.errors import GenerationError, RequestError

if TYPE_CHECKING:
    from chatglm.engine.engine import Engine


def score(
    engine: "Engine", prompt_ids: Sequence[int], continuation_ids: Sequence[int], adapter: str | None = None
) -> Score:
    """`Engine.score`, under the engine's lock."""
    prompt, continuation = token_ids_of(prompt_ids), token_ids_of(continuation_ids)
    if not continuation:
        raise RequestError("the continuation has no tokens; at least one is needed")
    if not prompt:
        raise RequestError("the prompt has no tokens; at least one is needed")
    engine.runner.adapters.require(adapter)
    request = Request([*prompt, *continuation], SamplingParams(max_tokens=1), frozenset(), adapter)
    request.prompt_ids = prompt
    check_request(engine, request, len(continuation))
    values, greedy = _judged(engine, request)
    if any(map(math.isnan, values)):
        raise GenerationError("the continuation cannot be scored: the logits hold NaN")
    return Score(math.fsum(values), tuple(values), greedy)


def _judged(engine: "Engine", request: Request) -> tuple[list[float], bool]:
    """Log-probabilities of the continuation's tokens, and whether each is the one greedy decoding takes."""
    blocks, end = engine.blocks, len(request.token_ids) - 1
    request.max_total = end + 1
    first_wanted = len(request.prompt_ids) - 1
    values: list[float] = []
    greedy = True
    try:
        _admit(engine, request, first_wanted)
        while request.num_computed < end:
            piece = Piece(request, min(engine.config.max_batch_tokens, end - request.num_computed))
            first = min(max(0, first_wanted - request.num_computed), piece.num_tokens)
            logits = engine.runner.logits(piece, first)
            if len(logits):  # taken at once: all of them together may be large
                start = request.num_computed + first + 1
                chosen = request.token_ids[start : start + len(logits)]
                ids = torch.tensor(chosen, device=logits.device)
                values += logits.log_softmax(dim=-1).gather(1, ids[:, None])[:, 0].tolist()
                greedy &= bool((logits[:, : engine.config.num_tokens].argmax(dim=1) == ids).all())
            request.num_computed += piece.num_tokens
            blocks.commit(request)
    finally:
        blocks.free(request)
    return values, greedy


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
        engine.loop._step()
