"""Decode steps that begin before the tokens of the last one have been read.

A sampled token stays on the device and is the next step's input there; Python reads it while that next step runs. Stop
tokens, stop strings and aborts are therefore noticed one step late, and what that step wrote for a request that had
ended is thrown away: its key and value lie behind the request's last token, in no block that can be found again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm.engine.request import Request, Status
from chatglm.engine.runner import ModelRunner
from chatglm.engine.sampling import INVALID, NOTHING_TO_CHOOSE, Row, Sampled, self_contained
from chatglm.engine.scheduler import Piece, Scheduler
from chatglm.engine.warping import on_device


class Flight:
    """A step that has been started: one token for each of its pieces, on its way to Python.

    Args:
        pieces: what the step runs.
        tokens: chosen ids [n] on the device; `INVALID` where none can be.
        error: why there are none.
    """

    def __init__(self, pieces: Sequence[Piece], tokens: Tensor | None, error: Exception | None = None) -> None:
        self.pieces, self.tokens, self.error = pieces, tokens, error
        self._host, self._copied = tokens, None
        if tokens is not None and tokens.is_cuda:
            self._host = torch.empty_like(tokens, device="cpu", pin_memory=True)
            self._host.copy_(tokens, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def tokens_of(self, which: Sequence[int]) -> Tensor:
        """The tokens of some of the pieces, on the device."""
        assert self.tokens is not None
        if len(which) == len(self.pieces):
            return self.tokens
        return self.tokens[on_device(which, torch.long, self.tokens.device)]

    def read(self) -> list[list[Sampled]]:
        """Wait for the tokens; as `ModelRunner.run` tells them."""
        if self.error is not None:
            raise self.error
        assert self._host is not None
        if self._copied is not None:
            self._copied.synchronize()
        ids: list[int] = self._host.tolist()
        return [[Sampled(token, None, NOTHING_TO_CHOOSE if token == INVALID else "")] for token in ids]


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
        """Whether a step can be a flight: one token a request, chosen without looking at text."""
        return self.runner.decodes(pieces) and all(
            self_contained(piece.request.params, piece.request.num_output) for piece in pieces
        )

    def start(self, pieces: Sequence[Piece]) -> Flight:
        """Start a step whose input tokens are known; its errors come when it is read."""
        return self._launch(pieces, None)

    def follow(self, flight: Flight) -> Flight | None:
        """Start the step after one that has not been read, where it is clear what that is.

        It is not where a request could be let in, or where there are no blocks without taking some from others.
        """
        scheduler = self.scheduler
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
            logits = self.runner.decode(requests, tokens)
            ahead = 0 if tokens is None else 1
            chosen = self.runner.sampler.choose(logits, [_row(request, ahead) for request in requests])
        except Exception as error:
            return Flight(pieces, None, error)
        return Flight(pieces, chosen)


def _row(request: Request, ahead: int) -> Row:
    """A row of which nothing but the position matters."""
    return Row(request, range(len(request.token_ids) + ahead))
