"""From logits to tokens: one batch, every row by its own request's settings.

A token is a pure function of the logits, the request's seed and its position, so neither the rest of the batch nor
speculation can change it: the row's probabilities are walked in id order until they pass one number in [0, 1) that
seed and position determine. A drafted token is right exactly when that walk ends on it.

The order of the settings is that of transformers' `generate()`: penalties and bans on the logits (`edits.py`), then
temperature, top-k, top-p, min-p. Recorded results of the official processors are in tests/golden/units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from chatglm.engine.drawing import ROWS, Drawer, Room
from chatglm.engine.edits import Edits
from chatglm.engine.logprobs import Likelihoods
from chatglm.engine.request import TokenLogprobs
from chatglm.engine.rows import Row
from chatglm.engine.threads import torch_threads
from chatglm.engine.warping import on_device, walk, warp

INVALID = -1  # stands for a token where none can be chosen
NOTHING_TO_CHOOSE = (
    "no token can be chosen: every token is banned, or the logits hold NaN or infinity, as damaged weights give them"
)
_MOST_LOGPROBS = 20  # found for every row that wants any


@dataclass(frozen=True, slots=True)
class Sampled:
    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str = ""  # why the token is INVALID


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that decides a request's token at a position."""
    digest = blake2b(b"%d:%d" % (seed, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


class Chosen:
    """The tokens of some rows, on the device and on their way to Python.

    Args:
        rows: N rows.
        tokens: a token for each [N], `INVALID` where none can be chosen.
        scored: of the rows that want log-probabilities [m]: the token's [m], the highest [m, 20], their tokens.
        errors: why rows have been made to have no token.
    """

    def __init__(self, rows: Sequence[Row], tokens: Tensor, scored: Sequence[Tensor], errors: dict[int, str]) -> None:
        self.tokens = tokens
        self._rows, self._errors = rows, errors
        self._host, self._copied = [tokens, *scored], None
        if tokens.is_cuda:
            self._host = [torch.empty_like(one, device="cpu", pin_memory=True) for one in self._host]
            for here, there in zip(self._host, (tokens, *scored), strict=True):
                here.copy_(there, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[Sampled]:
        """Wait for the tokens."""
        if self._copied is not None:
            self._copied.synchronize()
        ids, *scored = (one.tolist() for one in self._host)
        logprobs = zip(*scored, strict=True) if scored else iter(())
        return [
            self._sampled(index, token, next(logprobs) if _wants(self._rows[index]) else None)
            for index, token in enumerate(ids)
        ]

    def _sampled(self, index: int, token: int, scored: tuple[float, list[float], list[int]] | None) -> Sampled:
        if token == INVALID:
            return Sampled(INVALID, None, self._errors.get(index) or NOTHING_TO_CHOOSE)
        if scored is None:
            return Sampled(token)
        own, values, ids = scored
        top = self._rows[index].request.params.logprobs
        return Sampled(token, TokenLogprobs(token, own, tuple(zip(ids[:top], values[:top], strict=True))))


class Sampler:
    """Chooses tokens for rows of logits.

    Args:
        num_tokens: ids from here on have rows in the output layer and no text; they are never chosen. None: all are.
    """

    def __init__(self, num_tokens: int | None = None) -> None:
        self.num_tokens = num_tokens
        self._room, self._for_logprobs = Room(), Room()
        self._draw = Drawer(self._room)

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        """`logits` [N, vocab] for `rows` [N] -> a token each, `INVALID` where none can be chosen."""
        return self.choose(logits, rows).read()

    def choose(self, logits: Tensor, rows: Sequence[Row]) -> Chosen:
        """The same without waiting for the work of a GPU. The logits may be changed."""
        on_cpu = logits.device.type == "cpu"
        with torch_threads(1 if on_cpu else None):
            edits = Edits(rows, logits.shape[1], logits.device)
            looks_only = not edits and all(row.request.params.greedy and not _wants(row) for row in rows)
            size = ROWS if on_cpu and not looks_only else len(rows)
            starts = range(0, len(rows), size)
            parts = [self._part(logits[at : at + size], rows[at : at + size], edits, at) for at in starts]
            tokens = torch.cat([tokens for tokens, _ in parts])
            scored = [torch.cat(of_parts) for of_parts in zip(*(own for _, own in parts if own), strict=True)]
        return Chosen(rows, tokens, scored, edits.errors)

    def _part(self, logits: Tensor, rows: Sequence[Row], edits: Edits, first: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens of some rows, and what is told of those that want log-probabilities."""
        scores = self._scores(logits)
        wanting = [index for index, row in enumerate(rows) if _wants(row)]
        if wanting:
            whole = len(wanting) == len(rows)
            which = slice(None) if whole else on_device(wanting, torch.long, scores.device)
            likelihoods = Likelihoods(scores[which], _MOST_LOGPROBS, self._for_logprobs, changes=whole and bool(edits))
        if edits:
            edits.apply(scores, first, self._room)
        tokens = self._tokens(scores, rows)
        if not wanting:
            return tokens, ()
        return tokens, (likelihoods.of(tokens[which].clamp(min=0)), likelihoods.logprobs, likelihoods.ids)

    def _scores(self, logits: Tensor) -> Tensor:
        scores = logits.float().contiguous()
        if self.num_tokens is not None:
            scores[:, self.num_tokens :] = -torch.inf
        return scores

    def _tokens(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        params: list[Any] = [row.request.params for row in rows]
        if scores.device.type == "cpu":
            numbers = [0.0 if one.greedy else _number(row) for row, one in zip(rows, params, strict=True)]
            return torch.tensor([INVALID if id_ is None else id_ for id_ in self._draw(scores, params, numbers)])
        if all(one.greedy for one in params):
            best, chosen = scores.max(dim=1)
        else:
            drawn = on_device([_number(row) for row in rows], torch.float64, scores.device)
            best, chosen = scores.amax(dim=1), walk(torch.softmax(warp(scores, params), dim=1), drawn)
        # Not finite: a NaN, an overflow, or no token left.
        return torch.where(best.isfinite(), chosen, INVALID)


def _number(row: Row) -> float:
    return uniform(row.request.seed, len(row.context))


def _wants(row: Row) -> bool:
    return row.request.params.logprobs is not None
