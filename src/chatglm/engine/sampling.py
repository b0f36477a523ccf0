"""From logits to tokens: one batch, every row by its own request's settings.

A token is a pure function of the logits, the request's seed and its position, so neither the rest of the batch nor
speculation can change it: the row's probabilities are walked in id order until they pass one number in [0, 1) that
seed and position determine. A drafted token is right exactly when that walk ends on it.

The order of the settings is that of transformers' `generate()`: penalties and bans on the logits, then temperature,
top-k, top-p, min-p. Recorded results of the official processors are in tests/golden/units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, overload

import torch
from torch import Tensor

from chatglm.engine.request import Request, SamplingParams, TokenLogprobs
from chatglm.engine.threads import torch_threads

INVALID = -1  # stands for a token where none can be chosen
NOTHING_TO_CHOOSE = "no token can be chosen: the logits hold NaN or infinity, or every token is banned"


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


class Context(Sequence[int]):
    """The known tokens of a request and some of its drafts after them, not copied; only slices are lists."""

    def __init__(self, token_ids: list[int], draft_ids: list[int], num_drafts: int) -> None:
        self.token_ids, self.draft_ids, self.num_drafts = token_ids, draft_ids, num_drafts

    def __len__(self) -> int:
        return len(self.token_ids) + self.num_drafts

    def __iter__(self) -> Iterator[int]:
        return chain(self.token_ids, islice(self.draft_ids, self.num_drafts))

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        known = len(self.token_ids)
        if isinstance(index, int):
            position = range(len(self))[index]
            return self.token_ids[position] if position < known else self.draft_ids[position - known]
        start, stop, step = index.indices(len(self))
        if step != 1:
            return [self[position] for position in range(start, stop, step)]
        return self.token_ids[start:stop] + self.draft_ids[max(0, start - known) : max(0, stop - known)]


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that decides a request's token at a position."""
    digest = blake2b(b"%d:%d" % (seed, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def on_device(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of some numbers; on a GPU without waiting for the work it has."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype).pin_memory().to(device, non_blocking=True)


class Sampler:
    """Chooses tokens for rows of logits.

    Args:
        num_tokens: ids from here on have rows in the output layer and no text; they are never chosen. None: all are.
    """

    def __init__(self, num_tokens: int | None = None) -> None:
        self.num_tokens = num_tokens

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        """`logits` [N, vocab] for `rows` [N] -> a token each, `INVALID` where none can be chosen."""
        with torch_threads(1 if logits.device.type == "cpu" else None):
            scores = self._scores(logits)
            raw = scores.clone() if any(row.request.params.logprobs is not None for row in rows) else None
            errors = [_edit_row_or_say_why_not(score, row) for score, row in zip(scores, rows, strict=True)]
            ids: list[int] = self._choose(scores, rows).tolist()
            return [
                Sampled(
                    token,
                    None if raw is None else _logprobs(raw[index], token, rows[index].request.params.logprobs),
                    (errors[index] or NOTHING_TO_CHOOSE) if token == INVALID else "",
                )
                for index, token in enumerate(ids)
            ]

    def choose(self, logits: Tensor, rows: Sequence[Row]) -> Tensor:
        """What `sample` chooses for rows that are `self_contained`, as a tensor [N] on the logits' device.

        On a GPU nothing waits for its work.
        """
        with torch_threads(1 if logits.device.type == "cpu" else None):
            return self._choose(self._scores(logits), rows)

    def _scores(self, logits: Tensor) -> Tensor:
        scores = logits.float()
        if self.num_tokens is not None:
            scores[:, self.num_tokens :] = -torch.inf
        return scores

    def _choose(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        params = [row.request.params for row in rows]
        if all(one.greedy for one in params):
            best, chosen = scores.max(dim=1)
        else:
            best, chosen = scores.amax(dim=1), self._walk(warp(scores, params), rows)
        # Not finite: a NaN, an overflow, or no token left.
        return torch.where(best.isfinite(), chosen, INVALID)

    @staticmethod
    def _walk(scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """Inverse transform sampling in id order; greedy rows have one finite score left and so land on it. [N]"""
        cumulative = torch.softmax(scores, dim=1).cumsum(dim=1, dtype=torch.float64)
        numbers = [uniform(row.request.seed, len(row.context)) for row in rows]
        target = on_device(numbers, torch.float64, scores.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=scores.shape[1] - 1)


def self_contained(params: SamplingParams, num_output: int) -> bool:
    """Whether a request's token follows from logits, seed and position alone, so that no text is needed to choose it
    and nothing but the token is told."""
    return (
        params.hook is None
        and params.logprobs is None
        and params.draft is None
        and params.repetition_penalty == 1
        and not (params.presence_penalty or params.frequency_penalty)
        and not (params.logit_bias or params.bad_words or params.bad_words_ids)
        and num_output >= params.min_tokens
    )


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
    params, context = row.request.params, row.context
    banned = [
        word[-1]
        for word in params.bad_words_ids
        if len(word) == 1 or (len(context) >= len(word) - 1 and list(context[1 - len(word) :]) == list(word[:-1]))
    ]
    if row.request.bad_words is not None:
        banned.extend(row.request.bad_words.banned(context[len(row.request.prompt_ids) :]))
    if row.num_output < params.min_tokens:
        banned.extend(row.request.stop_ids)
    return banned


def warp(scores: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Temperature, top-k, top-p and min-p, each row by its own; what is cut becomes -inf. [N, vocab] -> [N, vocab]"""
    top_k = [1 if one.greedy else one.top_k for one in params]  # greedy: the best one is all that is left
    columns = [
        [
            max(one.temperature, _LEAST_TEMPERATURE) if one.temperature else 1.0,
            float(min(keep, 2**24)),
            one.top_p,
            one.min_p,
        ]
        for one, keep in zip(params, top_k, strict=True)
    ]
    temperature, keep, top_p, min_p = on_device(columns, torch.float32, scores.device).t()[..., None]
    # The best is taken off first, so that no temperature is too small.
    scores = (scores - scores.amax(dim=1, keepdim=True)) / temperature
    if any(top_k):
        scores = _cut_top_k(scores, keep.long(), max(top_k))
    if any(one.top_p < 1 for one in params):
        scores = _cut_each_top_p(scores, params) if scores.device.type == "cpu" else _cut_top_p(scores, top_p)
    if any(one.min_p > 0 for one in params):
        probabilities = torch.softmax(scores, dim=1)
        floor = min_p * probabilities.amax(dim=1, keepdim=True)
        scores = scores.masked_fill(probabilities < floor, -torch.inf)
    return scores


def _cut_top_k(scores: Tensor, top_k: Tensor, most: int) -> Tensor:
    """`top_k` [N, 1] up to `most`, 0: keep all. A row that keeps one keeps the first of equals, as argmax does."""
    best = scores.topk(min(most, scores.shape[1]), dim=1).values
    least = best.gather(1, (top_k - 1).clamp(0, best.shape[1] - 1))
    cut = scores.masked_fill((scores < least) & (top_k > 0), -torch.inf)
    first = torch.full_like(scores, -torch.inf).scatter_(1, scores.argmax(dim=1, keepdim=True), 0.0)
    return torch.where(top_k == 1, first, cut)


def _cut_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Drop the least likely tokens whose probabilities together stay within 1 - top_p; the best one always stays."""
    ordered = scores.sort(dim=1, stable=True)
    cumulative = ordered.values.softmax(dim=1).cumsum(dim=1)
    drop = (cumulative <= 1 - top_p) & (top_p < 1)
    drop[:, -1] = False
    return scores.masked_fill(torch.zeros_like(drop).scatter(1, ordered.indices, drop), -torch.inf)


_LEAST_TEMPERATURE = 1e-30  # float32 keeps it apart from 0
_BINS, _BINS_PER_UNIT = 2048, 64  # 32 units below the best, probabilities are under 1e-13


def _cut_each_top_p(scores: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """`_cut_top_p` for a processor, where sorting a vocabulary takes milliseconds: tokens are put into bins by score,
    and only the bin in which the sum is reached is sorted."""
    scores = scores.clone()
    for row, one in zip(scores, params, strict=True):
        if one.top_p < 1:
            _cut_row_top_p(row, one.top_p)
    return scores


def _cut_row_top_p(scores: Tensor, top_p: float) -> None:
    """One row [vocab], in place; its best score is 0 or NaN."""
    bins = (scores * -_BINS_PER_UNIT).clamp_(0, _BINS - 1).nan_to_num_(0).int()
    probabilities = scores.softmax(dim=0)
    mass = torch.bincount(bins, weights=probabilities.double(), minlength=_BINS).cumsum(dim=0)
    reached = int(torch.searchsorted(mass, top_p))  # the bin that holds the least likely one kept
    if reached == _BINS:  # rounding leaves all of them below the sum, or the row is NaN
        return
    (edge,) = (bins == reached).nonzero(as_tuple=True)
    order = edge[scores[edge].argsort(stable=True)].flip(0)  # of equals the last ones stay, as in an ascending sort
    before = probabilities[order].double().cumsum(dim=0).roll(1)
    before[0] = 0.0
    if reached:
        before += mass[reached - 1]
    dropped = order[before >= top_p]
    scores[bins > reached] = -torch.inf
    scores[dropped] = -torch.inf


def _logprobs(scores: Tensor, token: int, top: int | None) -> TokenLogprobs | None:
    if top is None or token == INVALID:
        return None
    logprobs = scores.log_softmax(dim=0)
    best = logprobs.topk(min(top, logprobs.shape[0]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprobs(token, float(logprobs[token]), tuple(pairs))
