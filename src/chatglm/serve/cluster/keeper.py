"""What a cluster keeps between two requests: files, and batches, whose requests any of its replicas answers."""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from chatglm.serve.access import Keys
from chatglm.serve.cluster.asked import AskedApp, asked_of
from chatglm.serve.cluster.relay import Relayed
from chatglm.serve.config import ServerConfig


@dataclass(frozen=True, slots=True)
class NoModel:
    """Stands for the service of a server that has no model."""

    config: ServerConfig
    engine: None = None


class Keeper(AskedApp):
    """Made by Ray Serve, one for a cluster. Another one that takes its place goes on with the batches.

    Args:
        replicas: Ray's handle of the replicas.
        config: of the server; its `files_dir` is reached from every machine.
        keys: who may ask.
    """

    def __init__(self, replicas: Any, config: ServerConfig, keys: Keys) -> None:
        from chatglm.serve.app import add_kept, new_app
        from chatglm.serve.server import Server

        nothing: Any = NoModel(config)  # the routes that are kept ask no model
        server = Server(nothing, keys)
        app = new_app(server)
        add_kept(app, server, Spread(replicas))
        super().__init__(server, app)


class Spread:
    """An app whose requests are answered by the replicas.

    Args:
        replicas: Ray's handle of the replicas.
    """

    def __init__(self, replicas: Any) -> None:
        self.replicas = replicas.options(stream=True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        # The key was checked when the batch was made; its name goes with every request.
        asked = asked_of(scope, body, state=scope["state"])
        # Ray takes all that is asked in the context of a request for a part of it: the request that made the batch.
        await Context().run(asyncio.ensure_future, Relayed(self.replicas, asked)(scope, receive, send))
