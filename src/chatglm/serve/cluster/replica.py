"""One model of a cluster: the app of `chatglm serve`, asked by the front instead of over a connection."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from chatglm.errors import GenerationError
from chatglm.serve.access import Keys
from chatglm.serve.config import ServerConfig

Message = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way to a replica.

    Attributes:
        scope: of ASGI, plain values only.
        body: all of it.
        blocks: what it is routed by, see `chatglm.serve.routing`.
    """

    scope: dict[str, Any]
    body: bytes
    blocks: tuple[int, ...] = ()


class Replica:
    """Made by Ray Serve in a process of its own, which loads the model.

    Args:
        options: of `chatglm serve`.
        config: of the server.
        keys: who may ask.
    """

    def __init__(self, options: Namespace, config: ServerConfig, keys: Keys) -> None:
        from chatglm.serve.app import build_app
        from chatglm.serve.run import loaded_engine
        from chatglm.serve.server import Server
        from chatglm.serve.service import Service

        self.engine, tokenizer = loaded_engine(options)
        self.server = Server(Service(self.engine.start(), tokenizer, config), keys)
        self.app = build_app(self.server)
        self._parts = AsyncExitStack()

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

    async def check_health(self) -> None:
        """Asked by Ray Serve again and again; a replica that raises is replaced.

        Raises:
            GenerationError: the engine has died.
        """
        if self.engine.failed:
            raise GenerationError(f"the engine has failed: {self.engine.failed!r}")

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()


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
