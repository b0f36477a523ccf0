"""Server-sent events: chunks as they come, a sign of life in silence, an error event where an answer breaks off."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from chatglm.errors import ChatGLMError
from chatglm.serve.errors import ApiError, from_ours

_log = logging.getLogger(__name__)
T = TypeVar("T")
DONE = "[DONE]"
Message = MutableMapping[str, Any]


class Gone(Exception):
    """The client has closed its connection, or reads no more."""


def event(data: Any, name: str | None = None) -> bytes:
    """One event; the data as JSON, a text as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


class EventStream(Response):
    """Sends events while they are made, and stops making them as soon as nobody listens.

    Args:
        events: encoded events. It is closed at the end.
        place: closed after that, whatever happens, also where no event was ever asked for.
        keep_alive: seconds of silence after which a comment is sent.
        write_timeout: seconds the client may take to read a chunk.
        error_event: what an error in the midst of a stream looks like.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        place: AsyncExitStack,
        keep_alive: float,
        write_timeout: float,
        error_event: Callable[[ApiError], bytes] = lambda error: event(error.body()),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | (headers or {}))
        del self.headers["content-length"]
        self.events, self.place, self.keep_alive, self.write_timeout = events, place, keep_alive, write_timeout
        self.error_event = error_event

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self.place, aclosing(self.events):
            try:
                await until_gone(receive, self._send_all(send))
            except Gone:
                _log.debug("the client has gone")

    async def _send_all(self, send: Any) -> None:
        await self._write(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._with_signs_of_life():
            await self._write(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await self._write(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Any, message: Message) -> None:
        try:
            await asyncio.wait_for(send(message), self.write_timeout)
        except (asyncio.TimeoutError, OSError):
            raise Gone from None

    async def _with_signs_of_life(self) -> AsyncIterator[bytes]:
        upcoming: asyncio.Future[bytes] | None = None
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(self.events))
                done, _ = await asyncio.wait((upcoming,), timeout=self.keep_alive)
                if not done:
                    yield b": still here\n\n"
                    continue
                try:
                    chunk = upcoming.result()
                except StopAsyncIteration:
                    return
                except ChatGLMError as error:
                    yield self.error_event(from_ours(error))
                    return
                except Exception:
                    _log.exception("a stream has failed")
                    yield self.error_event(ApiError(500, "the server has failed; its log says why"))
                    return
                finally:
                    upcoming = None if done else upcoming
                yield chunk
        finally:
            if upcoming is not None:
                await _ended(upcoming)


async def until_gone(receive: Callable[[], Awaitable[Message]], work: Any) -> Any:
    """The work's result, or `Gone` as soon as the client has closed the connection; the work is then cancelled."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        await _ended(task, watch)


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks and waits until they have ended; whoever cancels this meanwhile is heard."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it has been told, or nobody asks any more


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Any) -> Any:
    """`until_gone` for a request whose body has been read."""
    return await until_gone(request.receive, work)
