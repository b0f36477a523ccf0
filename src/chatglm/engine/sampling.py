"""From logits to tokens: one batch, every row by its own request's settings.

A token is a pure function of the logits, the request's seed and its position, so neither the rest of the batch nor
speculation can change it: the row's probabilities are walked in id order until they pass one number in [0, 1) that
seed and position determine. A drafted token is right exactly when that walk ends on it.

The order of the settings is that of transformers' `generate()`: penalties and bans on the logits, then temperature,
top-k, top-p, min-p. Recorded results of the official processors are in tests/golden/units.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm.engine.request import Request, SamplingParams, TokenLogprobs

INVALID = -1  # stands for a token where none can be chosen
_NOTHING_TO_CHOOSE = "no token can be chosen: the logits hold NaN or infinity, or every token is banned"


@dataclass(frozen=True, slots=True)
class Row:
    """One position to sample: the request, and the tokens before the position (drafts that lead to it included)."""

    request: Request
    context: Sequence[int]

    @property
    def num_output(self) -> int:
        return len(self.context) - len(self.request.prompt_ids)


@dataclass(frozen=True, slots=True)
class Sampled:
    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str = ""  # why the token is INVALID


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that decides a request's token at a position."""
    return random.Random(f"{seed}:{position}").random()


class Sampler:
    """Chooses tokens for rows of logits.

    Args:
        num_tokens: ids from here on have rows in the output layer and no text; they are never chosen. None: all are.
    """

    def __init__(self, num_tokens: int | None = None) -> None:
        self.num_tokens = num_tokens

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        """`logits` [N, vocab] for `rows` [N] -> a token each, `INVALID` where none can be chosen."""
        scores = logits.float()
        if self.num_tokens is not None:
            scores[:, self.num_tokens :] = -torch.inf
        raw = scores.clone() if any(row.request.params.logprobs is not None for row in rows) else None
        errors = [_edit_row_or_say_why_not(score, row) for score, row in zip(scores, rows, strict=True)]
        broken = ~scores.amax(dim=1).isfinite()  # a NaN, an overflow, or no token left
        if all(row.request.params.greedy for row in rows):
            chosen = scores.argmax(dim=1)
        else:
            chosen = self._walk(warp(scores, [row.request.params for row in rows]), rows)
        ids: list[int] = torch.where(broken, INVALID, chosen).tolist()
        return [
            Sampled(
                token,
                None if raw is None else _logprobs(raw[index], token, rows[index].request.params.logprobs),
                (errors[index] or _NOTHING_TO_CHOOSE) if token == INVALID else "",
            )
            for index, token in enumerate(ids)
        ]

    @staticmethod
    def _walk(scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """Inverse transform sampling in id order; greedy rows have one finite score left and so land on it. [N]"""
        cumulative = torch.softmax(scores, dim=1).cumsum(dim=1, dtype=torch.float64)
        numbers = [uniform(row.request.seed, len(row.context)) for row in rows]
        target = torch.tensor(numbers, dtype=torch.float64, device=scores.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=scores.shape[1] - 1)


def _edit_row_or_say_why_not(scores: Tensor, row: Row) -> str:
    """A hook that fails is its own request's error; the row becomes NaN, so that no token is chosen."""
    try:
        edit_row(scores, row)
    except Exception as error:
        scores.fill_(torch.nan)
        return f"the logits hook failed: {error!r}" if row.request.params.hook is not None else repr(error)
    return ""


def edit_row(scores: Tensor, row: Row) -> None:
    """Penalties, biases, bans and the hook on one row [vocab], in place; nothing happens for default settings."""
    params, context = row.request.params, row.context
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(context)), device=scores.device)
        values = scores[seen]
        penalty = params.repetition_penalty
        scores[seen] = torch.where(values < 0, values * penalty, values / penalty)
    if params.presence_penalty or params.frequency_penalty:
        _penalize_output(scores, context[len(row.request.prompt_ids) :], params)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=scores.device)
        scores[ids] += torch.tensor(list(params.logit_bias.values()), dtype=scores.dtype, device=scores.device)
    banned = banned_ids(row)
    if banned:
        scores[torch.tensor(banned, device=scores.device)] = -torch.inf
    if params.hook is not None:
        params.hook(context[len(row.request.prompt_ids) :], scores)


def _penalize_output(scores: Tensor, output_ids: Sequence[int], params: SamplingParams) -> None:
    if not output_ids:
        return
    ids, counts = torch.tensor(list(output_ids), device=scores.device).unique(return_counts=True)
    scores[ids] -= params.presence_penalty + params.frequency_penalty * counts.to(scores.dtype)


def banned_ids(row: Row) -> list[int]:
    """Tokens a position must not take: the ends of bad words begun before it, stop tokens before `min_tokens`."""
    params, context = row.request.params, list(row.context)
    banned = [
        word[-1]
        for word in params.bad_words_ids
        if len(word) == 1 or (len(context) >= len(word) - 1 and context[1 - len(word) :] == list(word[:-1]))
    ]
    if row.request.bad_words is not None:
        banned.extend(row.request.bad_words.banned(context[len(row.request.prompt_ids) :]))
    if row.num_output < params.min_tokens:
        banned.extend(row.request.stop_ids)
    return banned


def warp(scores: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Temperature, top-k, top-p and min-p, each row by its own; what is cut becomes -inf. [N, vocab] -> [N, vocab]"""

    def column(name: str) -> Tensor:
        return torch.tensor([float(getattr(p, name)) for p in params], device=scores.device)[:, None]

    temperature = column("temperature")
    best = scores.amax(dim=1, keepdim=True)  # taken off first, so that no temperature is too small
    scores = (scores - best) / torch.where(temperature == 0, 1.0, temperature)
    top_k = torch.where(temperature == 0, 1.0, column("top_k"))  # greedy: the best one is all that is left
    if bool((top_k > 0).any()):
        scores = _cut_top_k(scores, top_k.long())
    if any(p.top_p < 1 for p in params):
        scores = _cut_top_p(scores, column("top_p"))
    if any(p.min_p > 0 for p in params):
        probabilities = torch.softmax(scores, dim=1)
        floor = column("min_p") * probabilities.amax(dim=1, keepdim=True)
        scores = scores.masked_fill(probabilities < floor, -torch.inf)
    return scores


def _cut_top_k(scores: Tensor, top_k: Tensor) -> Tensor:
    """`top_k` [N, 1], 0: keep all. A greedy row keeps the first of equals, as argmax does."""
    vocab = scores.shape[1]
    keep = torch.where(top_k == 0, vocab, top_k).clamp(max=vocab)
    ordered = scores.sort(dim=1, descending=True, stable=True)
    scores = scores.masked_fill(scores < ordered.values.gather(1, keep - 1), -torch.inf)
    single = (keep == 1).squeeze(1)
    best = torch.full_like(scores, -torch.inf).scatter(1, ordered.indices[:, :1], ordered.values[:, :1])
    return torch.where(single[:, None], best, scores)


def _cut_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Drop the least likely tokens whose probabilities together stay within 1 - top_p; the best one always stays."""
    ordered = scores.sort(dim=1)
    cumulative = ordered.values.softmax(dim=1).cumsum(dim=1)
    drop = (cumulative <= 1 - top_p) & (top_p < 1)
    drop[:, -1] = False
    return scores.masked_fill(torch.zeros_like(drop).scatter(1, ordered.indices, drop), -torch.inf)


def _logprobs(scores: Tensor, token: int, top: int | None) -> TokenLogprobs | None:
    if top is None or token == INVALID:
        return None
    logprobs = scores.log_softmax(dim=0)
    best = logprobs.topk(top)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprobs(token, float(logprobs[token]), tuple(pairs))
