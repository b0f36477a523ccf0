"""A request on its way between the parts of a cluster, and an app that is asked so instead of over a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatglm.serve.routing import blocks_of, home_of, text_of

if TYPE_CHECKING:
    from chatglm.serve.server import Server

Message = MutableMapping[str, Any]
_SCOPE = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client")
_PLAIN = (str, bytes, int, type(None))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        scope: of ASGI, plain values only.
        body: all of it.
        blocks: what it is routed by, see `chatglm.serve.routing`.
        home: the replica that must answer; None: any.
    """

    scope: dict[str, Any]
    body: bytes
    blocks: tuple[int, ...] = ()
    home: str | None = None


def asked_of(
    scope: Mapping[str, Any], body: bytes, session: str | None = None, state: Mapping[str, Any] | None = None
) -> Asked:
    """A request as it is passed on.

    Args:
        scope: of ASGI, as a client's connection has it.
        body: all of it.
        session: what the client calls its conversation, if it does.
        state: what was checked already; never a client's word.
    """
    text, named = text_of(body)
    plain = {name: _plain(scope[name]) for name in _SCOPE if name in scope} | {"root_path": "", "server": None}
    plain |= {} if state is None else {"state": _plain(state)}
    return Asked(plain, body, tuple(blocks_of(text, named if session is None else session)), home_of(scope["path"]))


class AskedApp:
    """An app in a process of Ray's.

    Args:
        server: of the app.
        app: as `build_app` makes it.
    """

    def __init__(self, server: Server, app: Any) -> None:
        self.server, self.app = server, app
        self._begun = False

    async def answer(self, asked: Asked) -> AsyncGenerator[list[Message], None]:
        """The messages of the response as they come; those that wait are given together. Closing it is leaving."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        connection = _Connection(asked.body)
        work = asyncio.create_task(self.app(dict(asked.scope), connection.receive, messages.put))
        work.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            ended = False
            while not ended:
                together = [await messages.get()]
                while not messages.empty():
                    together.append(messages.get_nowait())
                ended = together[-1] is None
                if said := [message for message in together if message is not None]:
                    yield said
            await work  # what has failed in the app is told
        finally:
            connection.left.set()
            await asyncio.wait((work,))

    async def whole(self, asked: Asked) -> tuple[int, bytes]:
        """The status and the body of the response."""
        said = [message async for together in self.answer(asked) for message in together]
        return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:])

    async def check_health(self) -> None:
        """Asked by Ray Serve before the first request, and again and again; what raises is replaced."""
        if not self._begun:  # here there is a loop
            self._begun = True
            for begin in self.server.at_start:
                begin()


class _Connection:
    """What an app sees of the client: the body, and that it leaves."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}


def _plain(value: Any) -> Any:
    """What can be sent to another process."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [tuple(item) if isinstance(item, (list, tuple)) else item for item in value]
