"""Who runs now, and with how many tokens. Decides only; never touches a tensor.

Every step may run `max_batch_tokens` tokens. Requests that are already generating come first, one token each (and
their drafts), so nobody's answer stalls; what is left goes to prompts, in order of arrival, in pieces where a prompt is
longer than what is left; beside answers they take `max_prompt_tokens` at most, so that a long prompt does not hold up
who is being answered. When the cache is full the request that arrived last gives its blocks back and waits; its
tokens are kept and computed again later (mostly found in the prefix cache).
"""

import bisect
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from chatglm.engine.blocks import BlockKey, BlockManager
from chatglm.engine.request import Request, Status


@dataclass(frozen=True, slots=True)
class Piece:
    """`num_tokens` tokens of a request to run, from `request.num_computed` on; the last may be drafts."""

    request: Request
    num_tokens: int
    num_drafts: int = 0

    @property
    def samples(self) -> bool:
        """Whether the piece reaches the request's last known token, so that the next one can be chosen."""
        request = self.request
        return request.generates and request.num_computed + self.num_tokens - self.num_drafts == len(request.token_ids)

    @property
    def states(self) -> range:
        """Positions of the piece whose states are wanted for themselves; see `Purpose`."""
        request = self.request
        if request.purpose is None:
            return range(0)
        return request.purpose.states_in(request.num_computed, request.num_computed + self.num_tokens)


@dataclass(frozen=True, slots=True)
class _Refused:
    """The first in line, when it was found not to fit: the room there was, and what of it was not in the cache."""

    request: Request
    room: int
    next_key: BlockKey | None


class Drafts(Protocol):
    """Where guesses come from; see `draft.Drafter`."""

    def may_guess(self, request: Request, answering: int, /) -> bool:
        """Whether there may be some, beside so many that are being answered."""

    def __call__(self, request: Request, limit: int, /) -> list[int]:
        """At most so many."""


class Scheduler:
    """Keeps the queues.

    Args:
        blocks: owner of the cache.
        max_batch_tokens: tokens per step.
        max_running: requests that may hold blocks at once.
        max_prompt_tokens: tokens of prompts in a step in which others are answering; None: as many as the step takes.
        drafter: proposes tokens for a request that is about to decode; None where there is no speculation.
        whole_prompts: never run a prompt in pieces; `max_batch_tokens` must have room for the longest.
    """

    def __init__(
        self,
        blocks: BlockManager,
        max_batch_tokens: int,
        max_running: int,
        drafter: "Drafts | None" = None,
        max_prompt_tokens: int | None = None,
        whole_prompts: bool = False,
    ) -> None:
        self.whole_prompts = whole_prompts
        self.max_prompt_tokens = max_prompt_tokens or max_batch_tokens
        self.blocks, self.max_batch_tokens, self.max_running = blocks, max_batch_tokens, max_running
        self.drafter = drafter
        self.waiting: OrderedDict[Request, None] = OrderedDict()  # in order; anyone can leave at once
        self.running: list[Request] = []  # in order of arrival
        self.num_preemptions = 0
        self._refused: _Refused | None = None

    def add(self, request: Request) -> None:
        self.waiting[request] = None

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> list[Piece]:
        """The pieces of the next step; never empty while there is work."""
        answering = any(request.num_pending == 1 for request in self.running)
        for_prompts = self.max_prompt_tokens if answering else self.max_batch_tokens
        pieces = self._continue_running(self.max_batch_tokens, for_prompts)
        budget = self.max_batch_tokens - sum(piece.num_tokens for piece in pieces)
        for_prompts -= sum(piece.num_tokens for piece in pieces if piece.request.num_pending > 1)
        pieces.extend(self._admit_waiting(min(budget, for_prompts)))
        assert pieces or not self.has_work, "work, and nothing scheduled"
        return pieces

    def finish(self, request: Request) -> None:
        """Take a request out, whatever state it is in, and its blocks back."""
        if request.status is Status.RUNNING:
            self.running.remove(request)
        self.waiting.pop(request, None)
        self.blocks.free(request)
        request.status = Status.FINISHED

    def clear(self) -> list[Request]:
        """Let go of all requests, with nothing else done to them -> those there were."""
        requests = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        return requests

    def _continue_running(self, budget: int, for_prompts: int) -> list[Piece]:
        decoding = [request for request in self.running if request.num_pending == 1]
        prefilling = [request for request in self.running if request.num_pending > 1]
        pieces: list[Piece] = []
        # A token for everybody first; drafts and prompts share what is left.
        left = budget - len(decoding)
        for request in [*decoding, *prefilling]:
            if request.status is not Status.RUNNING:
                continue  # gave its blocks to an earlier one
            answering = request.num_pending == 1
            piece = self._piece(request, 1 + max(0, left) if answering else max(0, min(left, for_prompts)))
            if piece.num_tokens == 0 or not self._make_room(request, piece, pieces):
                continue
            pieces.append(piece)
            left -= piece.num_tokens - (1 if answering else 0)
            for_prompts -= 0 if answering else piece.num_tokens
        return pieces

    def may_guess(self, request: Request) -> bool:
        """Whether a request that is being answered may get drafts now."""
        return self.drafter is not None and self.drafter.may_guess(request, len(self.running))

    def _piece(self, request: Request, room: int) -> Piece:
        request.draft_ids = []
        if self.drafter is not None and request.num_pending == 1 and room > 1 and self.may_guess(request):
            # Nobody is thrown out for a guess.
            most = min(request.max_total - 1, self.blocks.room_for(request))
            limit = min(room - 1, most - len(request.token_ids))
            request.draft_ids = self.drafter(request, limit) if limit > 0 else []
        drafts = len(request.draft_ids)
        return Piece(request, min(request.num_pending + drafts, room), drafts)

    def _make_room(self, request: Request, piece: Piece, scheduled: Iterable[Piece]) -> bool:
        """Room for a running request's piece, at the cost of later arrivals; False where it had to give way itself."""
        while not self.blocks.extend(request, request.num_computed + piece.num_tokens):
            busy = {id(other.request) for other in scheduled}
            victims = [other for other in self.running if id(other) not in busy]
            victim = victims[-1]
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.blocks.free(request)
        request.status, request.draft_ids = Status.WAITING, []
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._stand_first(request)

    def _stand_first(self, request: Request) -> None:
        self.waiting[request] = None
        self.waiting.move_to_end(request, last=False)

    def _admit_waiting(self, budget: int) -> list[Piece]:
        pieces: list[Piece] = []
        held: list[Request] = []
        while self.waiting and budget > 0 and len(self.running) < self.max_running:
            request = next(iter(self.waiting))
            if self._must_wait(request):
                del self.waiting[request]
                held.append(request)
                continue
            num_tokens = self._let_in(request, budget)
            if num_tokens == 0:
                break
            pieces.append(Piece(request, num_tokens))
            budget -= num_tokens
        for request in reversed(held):
            self._stand_first(request)
        return pieces

    def _let_in(self, request: Request, budget: int) -> int:
        """Give the first in line its blocks -> tokens to run; 0 where there is no room.

        Room is for the piece, and a block to spare for everyone who runs, lest the newcomer is thrown out at once.
        """
        blocks = self.blocks
        room = blocks.num_free - len(self.running)
        if self.running and (room <= 0 or self._still_refused(request, room)):
            return 0
        match = blocks.match(request)
        num_cached = len(match.blocks) * blocks.block_size
        num_tokens = min(len(request.token_ids) - num_cached, budget)
        if self.whole_prompts and num_tokens < len(request.token_ids):
            return 0  # another step has room for it
        if blocks.missing(match, num_cached + num_tokens) > (room if self.running else blocks.num_free):
            self._refused = _Refused(request, room, match.next_key)
            return 0
        del self.waiting[request]
        blocks.admit(request, match)
        assert blocks.extend(request, num_cached + num_tokens)
        if request.num_preemptions == 0:
            request.num_cached, request.times.admitted = num_cached, time.monotonic()
            blocks.count_hits(request)
        request.status = Status.RUNNING
        bisect.insort(self.running, request, key=lambda other: other.request_id)
        return num_tokens

    def _still_refused(self, request: Request, room: int) -> bool:
        """Whether it would be no use to look again: there is no more room, and no more of it in the cache."""
        refused = self._refused
        return (
            refused is not None
            and refused.request is request
            and room <= refused.room
            and refused.next_key not in self.blocks.found
        )

    @staticmethod
    def _must_wait(request: Request) -> bool:
        """A sibling waits until the prompt they share is in the cache."""
        other = request.after
        return other is not None and not other.finished and other.num_computed < len(other.prompt_ids)
