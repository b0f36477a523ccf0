"""What every route needs: reading a request, its key's turn, its time, what is being answered, and what is counted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chatglm.serve import metrics
from chatglm.serve.access import Keys, Turnstile
from chatglm.serve.errors import ApiError, from_validation
from chatglm.serve.protocol.base import Body
from chatglm.serve.service import Answers, Job, Service
from chatglm.serve.stream import EventStream, while_connected

_log = logging.getLogger(__name__)
B = TypeVar("B", bound=Body)


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)


def engine_failed() -> ApiError:
    return ApiError(503, "the engine has failed; the server ends", code="engine_failed", retry_after=10)


class Breakable(Protocol):
    """What is being answered."""

    def fail(self, error: ApiError) -> None:
        """Break it off; whoever waits for it gets the error."""


class Server:
    """What every route needs: the service, who may ask, what is counted.

    Args:
        service: the model.
        keys: who may ask.
    """

    def __init__(self, service: Service, keys: Keys) -> None:
        self.service, self.config, self.keys = service, service.config, keys
        self.gate = Turnstile(self.config.max_running, self.config.max_waiting)
        self.metrics = metrics.Metrics(service.engine, self.gate)
        self.closing = False
        self.home = ""  # of several servers behind one address: this one's name
        self.parts = AsyncExitStack()  # what is ended when the server ends
        self.at_start: list[Callable[[], None]] = []
        self._running: set[Breakable] = set()

    def check_open(self) -> None:
        """Refuses everybody where nothing can be answered any more.

        Raises:
            ApiError: 503.
        """
        if self.closing:
            raise _shutting_down()
        if getattr(self.service.engine, "failed", None):
            raise engine_failed()

    @contextmanager
    def until_over(self, work: Breakable) -> Iterator[None]:
        """Inside it the work is broken off as soon as its time is over, or the server's."""
        timer = asyncio.get_running_loop().call_later(self.config.timeout, lambda: work.fail(self._late()))
        self._running.add(work)
        try:
            yield
        finally:
            timer.cancel()
            self._running.discard(work)

    def end_running(self) -> None:
        """Break off what is still being answered."""
        for work in list(self._running):
            work.fail(_shutting_down())

    async def body(self, request: Request, model: type[B]) -> B:
        """A request's body, checked.

        Raises:
            ApiError: 400, no JSON or a field that is wrong; 408, too slow; 413, too large.
        """
        raw = await self._read(request)
        if self.config.log_prompts:
            _log.info("%s %r", request.state.request_id, raw.decode("utf-8", "replace"))
        try:
            return model.model_validate_json(raw)
        except ValidationError as error:
            raise from_validation(error, _json(raw)) from None

    async def _read(self, request: Request) -> bytes:
        return b"".join([part async for part in self.incoming(request, self.config.max_body_bytes)])

    async def incoming(self, request: Request, most: int) -> AsyncGenerator[bytes, None]:
        """The pieces of a body of at most so many bytes.

        Raises:
            ApiError: 408, they do not come in time; 413, they are too many.
        """
        stream, size, clock = request.stream(), 0, asyncio.get_running_loop().time
        last = clock() + self.config.timeout
        try:
            while True:
                part = await asyncio.wait_for(anext(stream), max(0.0, min(self.config.write_timeout, last - clock())))
                size += len(part)
                if size > most:
                    raise ApiError(413, f"the body has more than {most} bytes", code="body_too_large")
                yield part
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise ApiError(408, "the body did not come in time", code="timeout") from None

    async def answered(
        self,
        request: Request,
        jobs: Callable[[], list[Job]],
        whole: Callable[[Answers], Awaitable[dict[str, Any]]],
        events: Callable[[Answers], AsyncGenerator[bytes, None]] | None,
        **stream_options: Any,
    ) -> Response:
        """Has a request carried out in its key's turn: as one body, or as a stream where `events` is given."""
        turn = await self.turn(request)
        try:
            answers = self.service.begin(jobs())
        except BaseException:
            await turn.aclose()
            raise
        turn.callback(self._count, answers)
        turn.callback(answers.end)
        turn.enter_context(self.until_over(answers))
        if events is not None:
            return self.stream(events(answers), turn, **stream_options)
        async with turn:
            return JSONResponse(await while_connected(request, whole(answers)))

    def stream(self, events: AsyncGenerator[bytes, None], place: AsyncExitStack, **options: Any) -> EventStream:
        """A response of events; the place is left at its end."""
        config = self.config
        return EventStream(
            events, place=place, keep_alive=config.keep_alive, write_timeout=config.write_timeout, **options
        )

    async def turn(self, request: Request) -> AsyncExitStack:
        """A place among those of the request's key that are answered; it is given back when the stack is closed.

        Raises:
            ApiError: 429, 503, or 504: it took too long until one was free.
        """
        self.check_open()
        stack = AsyncExitStack()
        try:
            entering = stack.enter_async_context(self.gate.admitted(request.state.key))
            await while_connected(request, self.in_time(entering))
        except BaseException:  # it may have been given a place just then
            await stack.aclose()
            raise
        return stack

    async def in_time(self, work: Awaitable[Any]) -> Any:
        """The work's result, if it comes in the time a request may take."""
        try:
            return await asyncio.wait_for(work, self.config.timeout)
        except asyncio.TimeoutError:
            raise self._late() from None

    def _late(self) -> ApiError:
        return ApiError(504, f"the answer took longer than {self.config.timeout:g} seconds", code="timeout")

    def _count(self, answers: Answers) -> None:
        for answer in answers.made:
            self.metrics.finished.labels(answer.finish_reason or "abort").inc()
            if answer.first_token_seconds is not None:
                self.metrics.first_token.observe(answer.first_token_seconds)
        for gap in answers.gaps:
            self.metrics.between.observe(gap)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
