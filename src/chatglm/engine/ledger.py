"""What a step has computed is taken over: tokens one by one until one of them ends the answer, and how answers end."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chatglm.engine.blocks import BlockManager
from chatglm.engine.draft import Drafter
from chatglm.engine.request import FinishReason, Output, Request, Status, TokenLogprobs
from chatglm.engine.sampling import INVALID, Sampled
from chatglm.engine.scheduler import Piece, Scheduler


class Ledger:
    """Writes into requests what they have gained; counts."""

    def __init__(self, scheduler: Scheduler, blocks: BlockManager, drafter: Drafter) -> None:
        self.scheduler, self.blocks, self.drafter = scheduler, blocks, drafter
        self.prompt_tokens = self.output_tokens = self.finished = 0

    def commit(self, piece: Piece, sampled: Sequence[Sampled]) -> Output | None:
        """Take over what a piece has computed; None where nothing can be said yet."""
        request = piece.request
        if request.finished:
            return None
        if request.num_output == 0:
            self.prompt_tokens += piece.num_tokens - piece.num_drafts
        told = _told(request, piece) if request.purpose is not None else {}
        if any(math.isnan(item.logprob) for item in told.get("prompt_logprobs", ())):
            return self.end(request, "error", error="the prompt has no log-probabilities: the logits hold NaN")
        if not sampled:
            request.num_computed += piece.num_tokens
            self.blocks.commit(request)
            return self._without_answer(request, told)
        accepted = _accepted(request.draft_ids, sampled)
        self.drafter.judged(request, piece.num_drafts, len(accepted) - 1)
        request.draft_ids = []
        request.num_computed = len(request.token_ids) + len(accepted) - 1
        output = self._append(request, accepted)
        if not request.finished:
            self.blocks.shrink(request, len(request.token_ids))
            self.blocks.commit(request)
        return replace(output, **told) if told else output

    def _without_answer(self, request: Request, told: dict[str, Any]) -> Output | None:
        """What a piece of a prompt gives: something only where that was wanted, the end where nothing else is."""
        if not request.generates and request.num_pending == 0:
            return replace(self.end(request, "length"), **told)
        return Output(request.request_id, (), **told) if told else None

    def _append(self, request: Request, accepted: Sequence[Sampled]) -> Output:
        """Add chosen tokens one by one until one of them ends the answer."""
        token_ids: list[int] = []
        logprobs: list[TokenLogprobs] = []
        text = ""
        reason: FinishReason | None = None
        self._note_time(request)
        for item in accepted:
            if item.token_id == INVALID:
                return self.end(request, "error", token_ids, text, logprobs, item.error)
            if item.token_id in request.stop_ids:
                request.stop_id, reason = item.token_id, "stop"
                break
            request.token_ids.append(item.token_id)
            token_ids.append(item.token_id)
            logprobs.extend([item.logprobs] if item.logprobs is not None else [])
            self.output_tokens += 1
            if request.stops is not None:
                try:
                    text += request.stops.push(item.token_id)
                except Exception as error:  # the caller's decoder; its request ends alone
                    request.stops = None
                    return self.end(request, "error", token_ids, text, logprobs, f"the decoder failed: {error!r}")
                if request.stops.found:
                    reason = "stop"
                    break
            if len(request.token_ids) >= request.max_total:
                reason = "length"
                break
        if reason is not None:
            return self.end(request, reason, token_ids, text, logprobs)
        return Output(request.request_id, tuple(token_ids), text, tuple(logprobs))

    def end(
        self,
        request: Request,
        reason: FinishReason,
        token_ids: Sequence[int] = (),
        text: str = "",
        logprobs: Sequence[TokenLogprobs] = (),
        error: str | None = None,
    ) -> Output:
        """End a request that is not finished."""
        request.num_computed = min(request.num_computed, len(request.token_ids))
        if request.status is Status.RUNNING and reason != "error":
            self.blocks.commit(request)  # the next turn begins with this one
        if request.stops is not None:
            try:
                text += request.stops.finish()
            except Exception as failure:
                reason, error = "error", f"the decoder failed: {failure!r}"
            if request.stops.found and reason == "length":  # the last bytes made a stop string whole
                reason = "stop"
        self.scheduler.finish(request)
        self.drafter.forget(request)
        return self._ended(request, Output(request.request_id, tuple(token_ids), text, tuple(logprobs), reason, error))

    def give_up(self, request: Request, error: str) -> Output:
        """End a request of an engine that has failed, whose books may be wrong: nothing but the request is touched."""
        request.status = Status.FINISHED
        return self._ended(request, Output(request.request_id, (), finish_reason="error", error=error))

    def _ended(self, request: Request, output: Output) -> Output:
        request.finish_reason, request.error = output.finish_reason, output.error
        self.finished += 1
        return output

    @staticmethod
    def _note_time(request: Request) -> None:
        times = request.times
        times.last_token = time.monotonic()
        if times.first_token is None:
            times.first_token = times.last_token


def _told(request: Request, piece: Piece) -> dict[str, Any]:
    """What a piece has brought for the request's purpose, as fields of an `Output`."""
    purpose = request.purpose
    assert purpose is not None
    fresh = purpose.take(piece.states)
    if fresh is None:
        return {}
    if purpose.pool is None:
        return {"prompt_logprobs": tuple(fresh)}
    return {"embedding": purpose.vector()} if purpose.next_state == purpose.stop else {}


def _accepted(draft_ids: Sequence[int], sampled: Sequence[Sampled]) -> list[Sampled]:
    """The sampled tokens up to and including the first that differs from its draft."""
    right = 0
    while right < len(sampled) - 1 and draft_ids[right] == sampled[right].token_id:
        right += 1
    return list(sampled[: right + 1])
