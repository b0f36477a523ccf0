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
from typing import overload

import torch
from torch import Tensor

from chatglm.engine.drawing import Drawer
from chatglm.engine.request import Request, SamplingParams, TokenLogprobs
from chatglm.engine.threads import torch_threads
from chatglm.engine.warping import on_device, walk, warp

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


class Sampler:
    """Chooses tokens for rows of logits.

    Args:
        num_tokens: ids from here on have rows in the output layer and no text; they are never chosen. None: all are.
    """

    def __init__(self, num_tokens: int | None = None) -> None:
        self.num_tokens = num_tokens
        self._draw = Drawer()

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        """`logits` [N, vocab] for `rows` [N] -> a token each, `INVALID` where none can be chosen."""
        with torch_threads(1 if logits.device.type == "cpu" else None):
            scores = self._scores(logits)
            raw = scores.clone() if any(row.request.params.logprobs is not None for row in rows) else None
            errors = {
                index: _edit_row_or_say_why_not(scores[index], row)
                for index, row in enumerate(rows)
                if _edits(row.request.params, row.num_output)
            }
            return [
                Sampled(
                    token,
                    None if raw is None else _logprobs(raw[index], token, rows[index].request.params.logprobs),
                    (errors.get(index) or NOTHING_TO_CHOOSE) if token == INVALID else "",
                )
                for index, token in enumerate(self._tokens(scores, rows))
            ]

    def choose(self, logits: Tensor, rows: Sequence[Row]) -> Tensor:
        """What `sample` chooses for rows that are `self_contained`, as a tensor [N] on the logits' device.

        On a GPU nothing waits for its work.
        """
        scores = self._scores(logits)
        if logits.device.type == "cpu":
            with torch_threads(1):
                return torch.tensor(self._tokens(scores, rows))
        return self._on_device(scores, rows)

    def _scores(self, logits: Tensor) -> Tensor:
        scores = logits.float()
        if self.num_tokens is not None:
            scores[:, self.num_tokens :] = -torch.inf
        return scores

    def _tokens(self, scores: Tensor, rows: Sequence[Row]) -> list[int]:
        if scores.device.type != "cpu":
            return self._on_device(scores, rows).tolist()
        params = [row.request.params for row in rows]
        numbers = [0.0 if one.greedy else _number(row) for row, one in zip(rows, params, strict=True)]
        return [INVALID if token is None else token for token in self._draw(scores, params, numbers)]

    def _on_device(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        params = [row.request.params for row in rows]
        if all(one.greedy for one in params):
            best, chosen = scores.max(dim=1)
        else:
            numbers = on_device([_number(row) for row in rows], torch.float64, scores.device)
            best, chosen = scores.amax(dim=1), walk(torch.softmax(warp(scores, params), dim=1), numbers)
        # Not finite: a NaN, an overflow, or no token left.
        return torch.where(best.isfinite(), chosen, INVALID)


def _number(row: Row) -> float:
    return uniform(row.request.seed, len(row.context))


def self_contained(params: SamplingParams, num_output: int) -> bool:
    """Whether a request's token follows from logits, seed and position alone, so that no text is needed to choose it
    and nothing but the token is told."""
    return params.logprobs is None and params.draft is None and not _edits(params, num_output)


def _edits(params: SamplingParams, num_output: int) -> bool:
    """Whether `edit_row` has anything to do."""
    return bool(
        params.hook is not None
        or params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or params.bad_words
        or params.bad_words_ids
        or num_output < params.min_tokens
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


def _logprobs(scores: Tensor, token: int, top: int | None) -> TokenLogprobs | None:
    if top is None or token == INVALID:
        return None
    logprobs = scores.log_softmax(dim=0)
    best = logprobs.topk(min(top, logprobs.shape[0]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprobs(token, float(logprobs[token]), tuple(pairs))
