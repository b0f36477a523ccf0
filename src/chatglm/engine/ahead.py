"""Decode steps that begin before the tokens of the last one have been read.

A sampled token stays on the device and is the next step's input there; Python reads it while that next step runs. Stop
tokens, stop strings and aborts are therefore noticed one step late, and what that step wrote for a request that had
ended is thrown away: its key and value lie behind the request's last token, in no block that can be found again.

Where a request's scores depend on its text, that has to be read before its next token can be chosen, not before the
network can run. So such a step chooses for all its rows when the tokens before them have been read: while it runs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm.engine.edits import edits_scores
from chatglm.engine.request import Request, Status
from chatglm.engine.rows import Row
from chatglm.engine.runner import ModelRunner
from chatglm.engine.sampling import Chosen, Sampled, Sampler
from chatglm.engine.scheduler import Piece, Scheduler
from chatglm.engine.warping import on_device


class Flight:
    """A step that has been started: one token for each of its pieces, on its way to Python.

    Args:
        pieces: what the step runs.
        sampler: chooses the tokens.
        logits: what the network gives [n, vocab]; valid until it is run again.
        error: why there are none.
    """

    def __init__(
        self, pieces: Sequence[Piece], sampler: Sampler, logits: Tensor | None, error: Exception | None = None
    ) -> None:
        self.pieces, self.sampler, self.logits, self.error = pieces, sampler, logits, error
        self.chosen: Chosen | None = None

    def choose(self, rows: Sequence[Row] | None = None) -> None:
        """Choose the tokens, if that has not been done: for `rows`, or for what the texts are by now."""
        if self.logits is None or self.chosen is not None:
            return
        try:
            rows = rows or [Row(piece.request, piece.request.token_ids) for piece in self.pieces]
            self.chosen = self.sampler.choose(self.logits, rows)
        except Exception as error:
            self.error = error
        self.logits = None

    def tokens_of(self, which: Sequence[int]) -> Tensor:
        """The tokens of some of the pieces, on the device."""
        assert self.chosen is not None
        tokens = self.chosen.tokens
        return tokens if len(which) == len(self.pieces) else tokens[on_device(which, torch.long, tokens.device)]

    @torch.inference_mode()
    def read(self) -> list[list[Sampled]]:
        """Wait for the tokens; as `ModelRunner.run` tells them."""
        self.choose()
        if self.error is not None:
            raise self.error
        assert self.chosen is not None
        return [[sampled] for sampled in self.chosen.read()]


class RunAhead:
    """Starts flights.

    Args:
        runner: has `static` steps.
        scheduler: whose requests run.
    """

    def __init__(self, runner: ModelRunner, scheduler: Scheduler) -> None:
        self.runner, self.scheduler = runner, scheduler
        self.num_followed = 0

    def suits(self, pieces: Sequence[Piece]) -> bool:
        """Whether a step can be a flight: one token a request, and nobody who will be asked for drafts."""
        return self.runner.decodes(pieces) and not any(self.scheduler.may_guess(piece.request) for piece in pieces)

    def start(self, pieces: Sequence[Piece]) -> Flight:
        """Start a step whose input tokens are known; its errors come when it is read."""
        return self._launch(pieces, None)

    @torch.inference_mode()
    def follow(self, flight: Flight) -> Flight | None:
        """Start the step after one that has not been read, where it is clear what that is.

        It is not where a request could be let in, or where there are no blocks without taking some from others.
        """
        scheduler = self.scheduler
        flight.choose()
        if flight.error is not None or (scheduler.waiting and len(scheduler.running) < scheduler.max_running):
            return None
        requests = [piece.request for piece in flight.pieces]
        running = [index for index, request in enumerate(requests) if request.status is Status.RUNNING]
        going = [index for index in running if len(requests[index].token_ids) + 1 < requests[index].max_total]
        if not going or len(running) < len(scheduler.running):
            return None
        for index in going:
            if not scheduler.blocks.extend(requests[index], len(requests[index].token_ids) + 1):
                return None
        self.num_followed += 1
        return self._launch([Piece(requests[index], 1) for index in going], flight.tokens_of(going))

    @torch.inference_mode()
    def _launch(self, pieces: Sequence[Piece], tokens: Tensor | None) -> Flight:
        requests = [piece.request for piece in pieces]
        try:
            flight = Flight(pieces, self.runner.sampler, self.runner.decode(requests, tokens))
        except Exception as error:
            return Flight(pieces, self.runner.sampler, None, error)
        if tokens is None:
            flight.choose()
        elif not any(edits_scores(request.params, request.num_output + 1) for request in requests):
            flight.choose([_row_ahead(request) for request in requests])
        return flight


def _row_ahead(request: Request) -> Row:
    """A row behind a token that is not known yet: nothing but its position matters."""
    return Row(request, range(len(request.token_ids) + 1))
