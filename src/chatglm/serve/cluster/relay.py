"""A response that another process makes: asked of another one where the first one dies, and never lost silently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from chatglm.serve import messages
from chatglm.serve.checks import refusal
from chatglm.serve.cluster.asked import Asked, Message
from chatglm.serve.errors import ApiError
from chatglm.serve.stream import event

_log = logging.getLogger(__name__)
TRIES = 3  # replicas that are asked before a request is given up


class Relayed(Response):
    """A response that a replica makes.

    Nothing is lost silently: a request whose replica dies before anything was sent is asked of another one, and a
    stream that has begun ends with an error event.

    Args:
        replicas: Ray's handle, for streams.
        asked: the request.
    """

    def __init__(self, replicas: Any, asked: Asked) -> None:
        super().__init__()
        self.replicas, self.asked = replicas, asked

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sent = _Sent(send)
        for tries_left in reversed(range(TRIES)):
            try:
                async with aclosing(self._answer()) as answer:
                    async for message in answer:
                        if tries_left and not sent.begun and message.get("status") == 503:
                            break  # this one cannot; another one may
                        await sent.send(message)
                    else:
                        return
            except replica_errors() as error:
                _log.warning("a replica has failed: %s", type(error).__name__)
                if sent.begun:
                    await sent.end(lost(), self.asked.scope["path"])
                    return
        await refusal(lost(), self.asked.scope["path"])(scope, receive, send)

    async def _answer(self) -> AsyncGenerator[Message, None]:
        response = self.replicas.answer.remote(self.asked)
        try:
            async for together in response:
                for message in together:
                    yield message
        except (asyncio.CancelledError, GeneratorExit):  # the client has gone, or another replica is asked
            response.cancel()
            raise


class _Sent:
    """What the client has got. The head of a response is kept back until there is something of its body."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._head: Message | None = None
        self._is_stream = self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        if self._head is not None:
            head, self._head = self._head, None
            self.begun = True
            self._is_stream = _content_type(head).startswith(b"text/event-stream")
            await self._send(head)
        await self._send(message)

    async def end(self, error: ApiError, path: str) -> None:
        """Tell in a stream that it breaks off; a body that has begun is left incomplete, which clients notice.

        Raises:
            ApiError: it is no stream.
        """
        if not self._is_stream:
            raise error
        told = messages.error_event(error) if path.startswith(messages.ROUTE) else event(error.body())
        await self._send({"type": "http.response.body", "body": told, "more_body": False})


def _content_type(head: Message) -> bytes:
    return next((value for name, value in head["headers"] if name.lower() == b"content-type"), b"")


def lost() -> ApiError:
    """Nobody can answer a request any more."""
    return ApiError(503, "the replica that answered has failed; ask again", code="replica_failed", retry_after=1)


def replica_errors() -> tuple[type[Exception], ...]:
    """What says that a replica, its machine or its app has failed."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    return RayError, RayServeException
