"""Speculation: guess the next tokens cheaply, let one step of the real model judge them all.

A guess is right exactly when the sampler, at that position, chooses the same token by itself, so answers are what they
would be without speculation: greedy and sampled, token for token (see `sampling.py`). Guessing only saves steps.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from chatglm.engine.blocks import BlockManager
from chatglm.engine.cache import KVCache
from chatglm.engine.request import Request
from chatglm.engine.runner import ModelRunner
from chatglm.engine.sampling import INVALID, Sampler
from chatglm.engine.scheduler import Piece


class Acceptance:
    """How many of a request's guesses came true lately; decides how many to make next.

    A guess counts if all before it are right. With the share p that came true, guess k is worth its place in a step
    as long as p^k is not small; so many are made. After a run of steps without a right one, none are for a while.
    """

    def __init__(self, most: int = 15, right: float = 4.5, wrong: float = 1.5, worth: float = 0.25) -> None:
        self.most = most  # with the token they follow 16 rows, which kernels take in whole tiles
        self.right, self.wrong = right, wrong  # of late; older steps count less
        # Of a guess, to be made: one more row costs about a tenth of a step, and a step yields two or three tokens.
        self.worth = worth
        self.rest = 0  # steps without guesses
        self.misses = 0  # steps without a right one, one after another

    def wanted(self) -> int:
        if self.rest > 0:
            self.rest -= 1
            return 0
        share = self.right / (self.right + self.wrong)
        return max(1, min(self.most, int(math.log(self.worth) / math.log(min(share, 0.99)))))

    def update(self, proposed: int, accepted: int) -> None:
        self.right = _MEMORY * self.right + accepted
        self.wrong = _MEMORY * self.wrong + (accepted < proposed)
        self.misses = 0 if accepted else self.misses + 1
        self.rest = min(32, 2**self.misses) if self.misses > 1 else 0


_MEMORY = 0.9


@dataclass(slots=True)
class _Copying:
    """What a request seems to copy: the token at `position` comes from `position - distance`."""

    distance: int
    seen_at: int  # where the text last agreed with it


class PromptLookup:
    """Guesses that what followed the last tokens earlier in the text follows again (edits, quotations, code).

    Where the text goes another way for a few tokens, as an edit does, it guesses that the copy goes on behind them.

    Args:
        longest, shortest: tokens that must agree to find a place.
        patience: tokens to go on for after the last agreement.
    """

    def __init__(self, longest: int = 4, shortest: int = 2, patience: int = 4) -> None:
        self.sizes = range(longest, shortest - 1, -1)
        self.patience = patience
        self._indexed: WeakKeyDictionary[Request, dict[tuple[int, ...], int]] = WeakKeyDictionary()
        self._upto: WeakKeyDictionary[Request, int] = WeakKeyDictionary()
        self._copying: WeakKeyDictionary[Request, _Copying] = WeakKeyDictionary()

    def propose(self, request: Request, limit: int) -> list[int]:
        ids = request.token_ids
        index = self._index(request)
        for size in self.sizes:
            end = index.get(tuple(ids[-size:])) if len(ids) > size else None
            if end is not None:
                self._copying[request] = _Copying(len(ids) - end, len(ids))
                return ids[end : end + limit]
        return self._beyond_an_edit(request, limit)

    def _beyond_an_edit(self, request: Request, limit: int) -> list[int]:
        ids, copying = request.token_ids, self._copying.get(request)
        if copying is None:
            return []
        for position in range(copying.seen_at, len(ids)):
            if ids[position] == ids[position - copying.distance]:
                copying.seen_at = position + 1
        if len(ids) - copying.seen_at > self.patience:
            del self._copying[request]
            return []
        start = len(ids) - copying.distance
        return ids[start : start + limit]

    def _index(self, request: Request) -> dict[tuple[int, ...], int]:
        """Where each n-gram that has a token after it ended last; extended by what came since the last call."""
        index = self._indexed.setdefault(request, {})
        ids = request.token_ids
        for end in range(self._upto.get(request, 1), len(ids)):
            for size in self.sizes:
                if end >= size:
                    index[tuple(ids[end - size : end])] = end
        self._upto[request] = max(1, len(ids))
        return index


class DraftModel:
    """Guesses with a smaller model of the same vocabulary, which keeps a cache of its own.

    It chooses its tokens with the numbers the real model will use, which makes equal choices likely where their
    probabilities are alike.

    Args:
        model, sampler, cache, block_size, filling: as of `ModelRunner`.
        most: tokens to run at once.
    """

    def __init__(
        self, model: Any, sampler: Sampler, cache: KVCache, block_size: int, filling: str, most: int = 512
    ) -> None:
        self.most = most
        self.runner = ModelRunner(model, cache, block_size, sampler, filling)
        self.blocks = BlockManager(cache.num_slots // block_size, block_size, prefix_cache=False)
        self._shadows: WeakKeyDictionary[Request, Request] = WeakKeyDictionary()

    def propose(self, request: Request, limit: int) -> list[int]:
        shadow = self._follow(request)
        known = len(shadow.token_ids)
        for _ in range(limit):
            if not self.blocks.extend(shadow, len(shadow.token_ids)):
                break
            while shadow.num_pending > self.most:  # a long prompt, in pieces
                self.runner.run([Piece(shadow, self.most)])
                shadow.num_computed += self.most
            (sampled,) = self.runner.run([Piece(shadow, shadow.num_pending)])
            if sampled[0].token_id == INVALID:
                break
            shadow.num_computed = len(shadow.token_ids)
            shadow.token_ids.append(sampled[0].token_id)
        return shadow.token_ids[known:]

    def forget(self, request: Request) -> None:
        shadow = self._shadows.pop(request, None)
        if shadow is not None:
            self.blocks.free(shadow)

    def _follow(self, request: Request) -> Request:
        """The draft model's own request, brought to the real one's tokens; what differs is computed again."""
        shadow = self._shadows.get(request)
        if shadow is None:
            shadow = Request(list(request.prompt_ids), request.params, request.stop_ids)
            shadow.seed = request.seed
            self._shadows[request] = shadow
        common = _common(shadow.token_ids, request.token_ids)
        shadow.rewind(common)
        shadow.num_computed = min(shadow.num_computed, common)
        shadow.token_ids = list(request.token_ids)
        shadow.num_computed = min(shadow.num_computed, len(shadow.token_ids) - 1)
        self.blocks.shrink(shadow, shadow.num_computed)
        return shadow


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def cautious() -> Acceptance:
    """For a request that has not asked for guesses: one at first, and more only while most come true. On the slowest
    processors a row costs a third of a step: then a guess that comes true half of the time still pays."""
    return Acceptance(most=7, right=1.0, wrong=1.0, worth=0.5)


class Drafter:
    """Asks the source each request has chosen, as often as its guesses deserve.

    Who has left it to the engine (`draft="auto"`) gets guesses from lookups where

    - the native kernels compute all large products, and attention: a row more costs little there, and changes no bit
      of the others;
    - at most two answers are being generated: the rows of others use up what a step has to give away;
    - nothing is asked of Python for each row (a hook, a constraint), and no adapter adds products of its own;
    - four tokens agree with an earlier place, and most guesses of late came true.

    Args:
        draft_model: for those who ask it.
        by_itself: whether the first of these holds.
    """

    def __init__(self, draft_model: DraftModel | None, by_itself: bool = False) -> None:
        self.lookup, self.draft_model, self.by_itself = PromptLookup(), draft_model, by_itself
        self.careful_lookup = PromptLookup(shortest=4, patience=0)
        self.acceptance: WeakKeyDictionary[Request, Acceptance] = WeakKeyDictionary()
        self.num_proposed = 0
        self.num_accepted = 0

    def may_guess(self, request: Request, answering: int = 1) -> bool:
        """Whether there may be guesses for a request, beside so many that are being answered."""
        params = request.params
        if params.draft != "auto":
            return params.draft is not None
        plain = params.hook is None and params.constraint is None and request.adapter is None
        return self.by_itself and plain and answering <= _COMPANY

    def __call__(self, request: Request, limit: int) -> list[int]:
        auto = request.params.draft == "auto"
        wanted = min(limit, self.acceptance.setdefault(request, cautious() if auto else Acceptance()).wanted())
        if wanted <= 0:
            return []
        if auto:
            return self.careful_lookup.propose(request, wanted)
        if request.params.draft == "lookup":
            return self.lookup.propose(request, wanted)
        if self.draft_model is None:
            return []
        try:
            return self.draft_model.propose(request, wanted)
        except Exception as error:  # guesses are never needed: without them the answer is the same, only later
            warnings.warn(f"the draft model failed and makes no more guesses: {error!r}", stacklevel=2)
            self.draft_model.forget(request)
            self.draft_model = None
            return []

    def judged(self, request: Request, proposed: int, accepted: int) -> None:
        if proposed:
            self.acceptance[request].update(proposed, accepted)
            self.num_proposed += proposed
            self.num_accepted += accepted

    def forget(self, request: Request) -> None:
        if self.draft_model is not None:
            self.draft_model.forget(request)


_COMPANY = 2  # answers at once beside which it still pays to guess
