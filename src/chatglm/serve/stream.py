"""Server-sent events: chunks as they come, a sign of life in silence, an error event where an answer breaks off."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from chatglm.errors import ChatGLMError
from chatglm.serve.errors import ApiError, from_ours

_log = logging.getLogger(__name__)
T = TypeVar("T")
DONE = "[DONE]"
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
Message = MutableMapping[str, Any]


class Gone(Exception):
    """The client has closed its connection, or reads no more."""


def event(data: Any, name: str | None = None) -> bytes:
    """One event; the data as JSON, a text as it is."""
    text = data if isinstance(data, str) else _json(data)
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
        self._written = time.monotonic()
        self._writing_since: float | None = None  # None: nothing is being written

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self.place, aclosing(self.events):
            try:
                # What is due now and then is looked after beside the stream: a timer for each chunk costs more than it.
                await until_gone(receive, self._send_all(send), self._watch(send))
            except Gone:
                _log.debug("the client has gone")

    async def _send_all(self, send: Any) -> None:
        await self._write(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for chunk in self.events:
                await self._write(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        except ChatGLMError as error:
            await self._tell(send, self.error_event(from_ours(error)))
        except Gone:
            raise
        except Exception:
            _log.exception("a stream has failed")
            await self._tell(send, self.error_event(ApiError(500, "the server has failed; its log says why")))
        await self._write(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Any, chunk: bytes) -> None:
        await self._write(send, {"type": "http.response.body", "body": chunk, "more_body": True})

    async def _write(self, send: Any, message: Message) -> None:
        self._writing_since = time.monotonic()
        try:
            await send(message)
        except OSError:
            raise Gone from None
        finally:
            self._written, self._writing_since = time.monotonic(), None

    async def _watch(self, send: Any) -> None:
        """Gives up a client that does not read, and tells one that waits long that its answer is alive."""
        while True:
            now = time.monotonic()
            if self._writing_since is not None:
                left = self._writing_since + self.write_timeout - now
                if left <= 0:
                    raise Gone
            else:
                left = self._written + self.keep_alive - now
                if left <= 0:
                    await self._tell(send, b": still here\n\n")
                    continue
            await asyncio.sleep(min(left, self.write_timeout))


async def until_gone(receive: Callable[[], Awaitable[Message]], work: Any, *beside: Any) -> Any:
    """The work's result, or `Gone` as soon as the client has closed the connection; the work is then cancelled.

    What runs beside it is cancelled with it; where that raises, so does this.
    """
    task, *others = (asyncio.ensure_future(one) for one in (work, _disconnected(receive), *beside))
    try:
        await asyncio.wait((task, *others), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        for other in others:
            if other.done():
                other.result()
        raise Gone
    finally:
        await _ended(task, *others)


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
