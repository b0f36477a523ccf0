"""One model of a cluster: the app of `chatglm serve`, asked by the front instead of over a connection."""

from __future__ import annotations

from argparse import Namespace

from chatglm.errors import GenerationError
from chatglm.serve.access import Keys
from chatglm.serve.cluster.asked import AskedApp
from chatglm.serve.config import ServerConfig


class Replica(AskedApp):
    """Made by Ray Serve in a process of its own, which loads the model.

    Args:
        options: of `chatglm serve`.
        config: of the server.
        keys: who may ask.
    """

    def __init__(self, options: Namespace, config: ServerConfig, keys: Keys) -> None:
        from ray.serve import get_replica_context

        from chatglm.serve.app import build_app
        from chatglm.serve.run import loaded_engine, sentence_model
        from chatglm.serve.server import Server
        from chatglm.serve.service import Service

        sentences = sentence_model(options)
        self.engine, tokenizer = loaded_engine(options)
        server = Server(Service(self.engine.start(), tokenizer, config, sentences), keys)
        server.home = get_replica_context().replica_id.unique_id
        super().__init__(server, build_app(server))

    async def check_health(self) -> None:
        """See `AskedApp`.

        Raises:
            GenerationError: the engine has died.
        """
        await super().check_health()
        if self.engine.failed:
            raise GenerationError(f"the engine has failed: {self.engine.failed!r}")

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
