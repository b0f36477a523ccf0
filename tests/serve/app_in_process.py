"""The app over an engine of the test's own, answering on a free port from a thread of this process."""

import asyncio
import contextlib
import threading
import time
from typing import Any

import uvicorn

from chatglm.serve.access import Keys
from chatglm.serve.app import build_app
from chatglm.serve.config import ServerConfig
from chatglm.serve.server import Server
from chatglm.serve.service import Service


@contextlib.contextmanager
def answering(engine, tokenizer, *keys, **config):
    """The address, and the `Server`."""
    server: Any = Server(Service(engine, tokenizer, ServerConfig(name="scripted", **config)), Keys(keys))
    server.at_start.append(lambda: setattr(server, "loop", asyncio.get_running_loop()))
    settings = uvicorn.Config(build_app(server), port=0, log_config=None, timeout_graceful_shutdown=5)
    web = uvicorn.Server(settings)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = web.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        web.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
