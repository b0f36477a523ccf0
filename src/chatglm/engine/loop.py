"""The loop: take in what came, schedule, run, commit, hand out. Whoever has the turn owns it; see `turns.py`.

Every request that goes in comes out with a reason why it ended, also where the loop itself fails.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from chatglm.engine.ahead import Flight, RunAhead
from chatglm.engine.ledger import Ledger
from chatglm.engine.request import FinishReason, Output, Request, Sink
from chatglm.engine.runner import ModelRunner
from chatglm.engine.sampling import Sampled
from chatglm.engine.scheduler import Piece, Scheduler
from chatglm.engine.threads import StepThreads
from chatglm.engine.turns import Turns
from chatglm.engine.worker import Worker
from chatglm.errors import GenerationError

_log = logging.getLogger(__name__)


class StepLoop:
    """Takes steps, for the caller that asks for one or in a worker's thread.

    Args:
        scheduler, runner, ledger, ahead: the parts of a step.
        threads: how many compute.
    """

    def __init__(
        self, scheduler: Scheduler, runner: ModelRunner, ledger: Ledger, ahead: RunAhead | None, threads: StepThreads
    ) -> None:
        self.scheduler, self.runner, self.ledger, self.ahead = scheduler, runner, ledger, ahead
        self.turns = Turns(self._fail)
        self.worker: Worker | None = None
        self.handed_out: Callable[[], object] = lambda: None  # called when the sinks have all that a step has brought
        self.failed: BaseException | None = None
        self.steps = 0
        self._threads = threads
        self._flight: Flight | None = None  # the step that runs already, if there is one
        self._gained: deque[tuple[Request, Output]] = deque()  # not handed out yet

    def add(self, request: Request) -> None:
        """Have a request join the line before the next step.

        Raises:
            GenerationError: the loop has failed. RequestError: there is no such adapter.
        """
        if self.failed is not None:
            raise GenerationError(f"the engine has failed and takes no more requests; make a new one: {self.failed!r}")
        self.runner.adapters.require(request.adapter)
        self.turns.post(partial(self._enter, request))

    def abort(self, request: Request) -> None:
        """End a request before the next step."""
        if not request.finished:
            self.turns.post(partial(self._abort, request))

    def redirect(self, request: Request, sink: Sink) -> None:
        """Have a request's outputs go to a sink, those that have not been read first. The end is told in any case."""
        self.turns.post(partial(self._redirect, request, sink))

    def step(self) -> list[Output]:
        """Run one step; what each request gained from it."""
        with self._turn():
            return self._step()

    def step_unless(self, has_come: Callable[[], bool]) -> None:
        """Run one step, unless somebody else's has brought what is waited for."""
        with self._turn():
            if not has_come():
                self._step()

    def start(self) -> None:
        """Have a thread of its own take the steps from now on."""
        if self.worker is None:
            self.worker = Worker(self._work)
            self.turns.wake = self.worker.wake
            self.worker.wake()

    def close(self) -> None:
        """End that thread, and what is unfinished with reason "abort"."""
        worker, self.worker = self.worker, None
        if worker is None:
            return
        worker.close()
        self.turns.wake = lambda: False
        self.turns.settle()  # what was put in while the thread ended
        for request in self.turns.ask(lambda: [*self.scheduler.running, *self.scheduler.waiting]):
            self.abort(request)

    def _work(self) -> bool:
        try:
            with self._turn():
                self._step()
                return self.scheduler.has_work
        except BaseException as error:  # such as SystemExit from a hook: the thread must not end unheard
            with self.turns.taken():
                self._fail(error)
            return False

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self.turns.taken():
            self.hand_out()  # what an interrupted turn has left
            try:
                yield
            finally:
                if not self.scheduler.has_work:
                    self._threads.rest()

    def _step(self) -> list[Output]:
        if not self.scheduler.has_work:
            self._flight = None
            return []
        try:
            with self.runner.on_device(), self._threads():
                self._gain()
        except Exception as error:
            self._fail(error)
        except BaseException:  # Ctrl-C: what runs already would be taken for the step that is lost
            self._flight = None
            raise
        self.steps += 1
        return self.hand_out()

    def _gain(self) -> None:
        pieces, read = self._begin_step()
        try:
            sampled = read()
        except Exception as error:  # the step is lost, the engine and the other requests are not
            self.runner.check_device()
            for piece in pieces:
                if not piece.request.finished:
                    self._end(piece.request, "error", repr(error))
            return
        for piece, tokens in zip(pieces, sampled, strict=True):
            output = self.ledger.commit(piece, tokens)
            if output is not None:
                self._gained.append((piece.request, output))

    def _begin_step(self) -> tuple[Sequence[Piece], Callable[[], list[list[Sampled]]]]:
        """The pieces of a step, and what gives their tokens: runs them, or waits for them where they run already."""
        flight, self._flight = self._flight, None
        if flight is None:
            pieces = self.scheduler.schedule()
            if self.ahead is None or not self.ahead.suits(pieces):
                return pieces, lambda: self.runner.run(pieces)
            flight = self.ahead.start(pieces)
        assert self.ahead is not None
        self._flight = self.ahead.follow(flight)
        return flight.pieces, flight.read

    def _enter(self, request: Request) -> None:
        self.scheduler.add(request)
        known = request.adapter is None or request.adapter in self.runner.adapters.weights
        if self.failed is not None or not known:  # since it was asked for
            self._end(request, "error", repr(self.failed) if known else f"adapter {request.adapter!r} was removed")
            self.hand_out()

    def _abort(self, request: Request) -> None:
        if not request.finished:
            self._end(request, "abort")
            self.hand_out()
            if not self.scheduler.has_work:
                self._threads.rest()

    def _end(self, request: Request, reason: FinishReason, error: str | None = None) -> None:
        self._gained.append((request, self.ledger.end(request, reason, error=error)))

    def _redirect(self, request: Request, sink: Sink) -> None:
        if request.finished and not (request.outputs and request.outputs[-1].finish_reason):
            request.outputs.append(
                Output(request.request_id, (), finish_reason=request.finish_reason, error=request.error)
            )
        unread = [(request, output) for output in request.outputs]
        request.outputs.clear()
        request.sink = sink
        self._gained.extendleft(reversed(unread))
        self.hand_out()

    def hand_out(self) -> list[Output]:
        """Give every output to its request's sink. For whoever has the turn."""
        handed = []
        while self._gained:
            request, output = self._gained.popleft()
            handed.append(output)
            try:
                request.sink(output)
            except KeyboardInterrupt:  # meant for whoever steps
                raise
            except BaseException as error:  # its reader is gone; what is left to say stays with the request
                _log.warning("the sink of request %d failed, it is ended: %r", request.request_id, error)
                request.sink = request.outputs.append
                if not request.finished:
                    self._end(request, "error", f"the sink failed: {error!r}")
        if handed:
            self.handed_out()
        return handed

    def _fail(self, error: BaseException) -> None:
        _log.error("the engine has failed; every request ends with an error", exc_info=error)
        self.failed, self._flight = error, None
        for request in self.scheduler.clear():
            self._gained.append((request, self.ledger.give_up(request, f"the engine has failed: {error!r}")))
        self.hand_out()
