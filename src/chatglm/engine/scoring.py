"""How likely continuations are, and vectors of texts: requests like others, that end where an answer would begin."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from chatglm.engine.interface import Answering, answers_of
from chatglm.engine.purpose import Pool
from chatglm.engine.request import Request, SamplingParams, TokenLogprobs, token_ids_of
from chatglm.engine.results import Completion, Score
from chatglm.errors import GenerationError, RequestError

AT_ONCE = 256  # positions whose logits are in memory; of 65,024 each, 67 MB in float32


def score_many(
    engine: Answering, pairs: Iterable[tuple[Sequence[int], Sequence[int]]], adapter: str | None = None
) -> list[Score]:
    """`Engine.score_many`. A prompt that several pairs begin with is computed once."""
    first_of: dict[tuple[int, ...], Request] = {}
    params = SamplingParams(max_tokens=0, prompt_logprobs=1)

    def submit(prompt: list[int], continuation: list[int]) -> Request:
        key = tuple(prompt)
        ids = [*prompt, *continuation]
        request = engine.submit(ids, params, adapter=adapter, after=first_of.get(key), scored_from=len(prompt))
        first_of.setdefault(key, request)
        return request

    return [_score(answer) for answer in answers_of(engine, (submit(*_pair(*pair)) for pair in pairs))]


def embed(
    engine: Answering, prompts: Iterable[Sequence[int]], pool: Pool, adapter: str | None = None
) -> list[tuple[float, ...]]:
    """`Engine.embed`."""
    answers = answers_of(engine, (engine.submit(prompt, pool=pool, adapter=adapter) for prompt in prompts))
    return [_embedding(answer) for answer in answers]


def judged(logits: Tensor, token_ids: Sequence[int], top: int, num_tokens: int | None) -> list[TokenLogprobs]:
    """Logits [n, vocab] before n given tokens -> their log-probabilities, with the `top` likeliest that have a text."""
    logprobs = logits.float().log_softmax(dim=-1)
    chosen = logprobs.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0].tolist()
    if top == 0:
        return [TokenLogprobs(token, value, ()) for token, value in zip(token_ids, chosen, strict=True)]
    known = logprobs[:, :num_tokens]
    best = known.max(dim=1, keepdim=True) if top == 1 else known.topk(min(top, known.shape[1]))
    rows = zip(token_ids, chosen, best.indices.tolist(), best.values.tolist(), strict=True)
    return [TokenLogprobs(token, value, tuple(zip(ids, values, strict=True))) for token, value, ids, values in rows]


def _pair(prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    prompt, continuation = token_ids_of(prompt_ids), token_ids_of(continuation_ids)
    for name, ids in (("prompt", prompt), ("continuation", continuation)):
        if not ids:
            raise RequestError(f"the {name} has no tokens; at least one is needed")
    return prompt, continuation


def _score(answer: Completion) -> Score:
    if answer.finish_reason != "length":
        raise GenerationError(f"the continuation cannot be scored: {answer.error or answer.finish_reason}")
    values = tuple(item.logprob for item in answer.prompt_logprobs)
    return Score(math.fsum(values), values, all(item.top[0][0] == item.token_id for item in answer.prompt_logprobs))


def _embedding(answer: Completion) -> tuple[float, ...]:
    if answer.embedding is None:
        raise GenerationError(f"there is no embedding: {answer.error or answer.finish_reason}")
    return answer.embedding
