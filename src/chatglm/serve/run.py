"""`chatglm serve`: checks the options, loads the model, runs the app until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from chatglm.errors import ConfigError, MissingExtraError
from chatglm.listening import LOOPBACK, known_hosts, listening, web_server
from chatglm.serve.access import OPEN, Keys
from chatglm.serve.config import ServerConfig
from chatglm.serve.direct import Direct

ENVIRONMENT = "CHATGLM_API_KEYS"
EMBEDDED = "chatglm-tiny"
ENGINE_DIED = 70  # EX_SOFTWARE
_BACKLOG = 2048


def start_server(options: argparse.Namespace) -> int:
    """Run `chatglm serve` with parsed options. Everything that can be checked is checked before the model is loaded.

    Raises:
        ConfigError: an option's value, or a port that is taken. MissingExtraError: the packages of a server.
        SandboxError: code cannot be isolated here.
    """
    config, keys = checked(options)
    with listening(options.host, options.port) as listener:  # before the model: a taken port is said at once
        note("loading " + (options.model or "the embedded model"))
        sentences = sentence_model(options)
        engine, tokenizer = loaded_engine(options)
        try:
            return asyncio.run(serve(engine, tokenizer, sentences, config, keys, listener, options))
        finally:
            engine.close()


def checked(options: argparse.Namespace) -> tuple[ServerConfig, Keys]:
    """The settings and the keys that the options name.

    Raises:
        ConfigError, MissingExtraError, SandboxError: see `start_server`.
    """
    _need_packages()
    _check_engine(options)
    _check_certificate(options)
    config = config_of(options)
    keys = Keys.read(options.api_key_file, os.environ.get(ENVIRONMENT))
    if options.host not in LOOPBACK and not keys.asked_for:
        note(
            f"anybody who reaches {options.host}:{options.port} can use this model; "
            f"ask for keys with --api-key-file or {ENVIRONMENT}"
        )
    if config.code:
        from chatglm.sandbox import open_sandbox

        open_sandbox(config.tier).close()  # that code cannot be isolated here is told before a model is loaded
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    return config, keys


def _check_engine(options: argparse.Namespace) -> None:
    if options.cache_memory is not None and not 0 < options.cache_memory < 1e6:
        raise ConfigError(f"--cache-memory is {options.cache_memory}; it must be a number of GB above 0")
    if getattr(options, "engine", "own") == "vllm":
        ours = ("quantize", "adapter", "prefix", "cache_memory", "allow_lora")
        if given := [name for name in ours if getattr(options, name, None) is not None]:
            raise ConfigError(
                f"--{given[0].replace('_', '-')} is this package's engine's; leave it out, or --engine vllm"
            )
        if options.tensor_parallel < 1:
            raise ConfigError(f"--tensor-parallel is {options.tensor_parallel}; it must be at least 1")
    elif getattr(options, "tensor_parallel", 1) != 1:
        raise ConfigError("--tensor-parallel goes with --engine vllm")
    if options.max_batch < 1:
        raise ConfigError(f"--max-batch is {options.max_batch}; it must be at least 1")


def _check_certificate(options: argparse.Namespace) -> None:
    if options.tls_cert is None and options.tls_key is not None:
        raise ConfigError("--tls-key is the key of a certificate; give it by --tls-cert")
    if options.tls_cert is None:
        return
    import ssl

    for file in filter(None, (options.tls_cert, options.tls_key)):
        if not os.path.isfile(file):
            raise ConfigError(f"there is no file {file!r}, which --tls-cert or --tls-key names")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:
        raise ConfigError(
            f"--tls-cert {options.tls_cert} and --tls-key {options.tls_key or '(in the same file)'} are no certificate "
            f"with its key in PEM: {error}"
        ) from None


def config_of(options: argparse.Namespace) -> ServerConfig:
    """The settings that the options name; those not given are the defaults."""
    given = {field.name: getattr(options, field.name, None) for field in fields(ServerConfig)}
    given["name"] = options.name or (Path(options.model).name if options.model else EMBEDDED)
    given["aliases"] = tuple(options.alias or ())
    given["origins"] = tuple(origin.lower().rstrip("/") for origin in getattr(options, "allow_origin", None) or ())
    given["tools"] = tuple(getattr(options, "tools", None) or ())
    host = getattr(options, "host", None)  # a batch listens nowhere
    given["hosts"] = known_hosts(host, getattr(options, "allow_host", None) or ())  # checks of health ask by those
    return ServerConfig(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def loaded_server(options: argparse.Namespace) -> Iterator[Direct]:
    """A server of the model that the options name, which nobody but this program asks."""
    _need_packages()
    _check_engine(options)
    config = config_of(options)
    from chatglm.serve.app import build_app
    from chatglm.serve.server import Server
    from chatglm.serve.service import Service

    note("loading " + (options.model or "the embedded model"))
    sentences = sentence_model(options)
    engine, tokenizer = loaded_engine(options)
    server = Server(Service(engine.start(), tokenizer, config, sentences), Keys())
    try:
        yield Direct(build_app(server), OPEN)
    finally:
        engine.close()
        asyncio.run(server.parts.aclose())


async def serve(
    engine: Any,
    tokenizer: Any,
    sentences: Any,
    config: ServerConfig,
    keys: Keys,
    listener: socket.socket,
    options: Any,
) -> int:
    """Answer on a socket until SIGINT or SIGTERM, or until the engine has died.

    Returns:
        The exit status.
    """
    import uvicorn

    from chatglm.serve.app import build_app
    from chatglm.serve.server import Server
    from chatglm.serve.service import Service

    engine.start()
    server = Server(Service(engine, tokenizer, config, sentences), keys)
    settings = uvicorn.Config(
        build_app(server),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=round(config.grace) + 5,  # what is left at the end of the grace is told so
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        lifespan="on",
    )
    web = web_server(settings)
    loop = asyncio.get_running_loop()

    def leave() -> None:
        if server.closing:  # asked a second time
            server.end_running()
        server.closing = web.should_exit = True
        loop.call_later(config.grace, server.end_running)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    listener.listen(_BACKLOG)  # whoever reads the address below may come at once
    scheme = "https" if options.tls_cert else "http"
    host, port = listener.getsockname()[:2]
    note(f"{config.name} answers at {scheme}://{host}:{port}/v1")
    watch = asyncio.create_task(_watch(engine, server, web))
    try:
        await web.serve(sockets=[listener])
    finally:
        watch.cancel()
    return ENGINE_DIED if engine.failed else 0


async def _watch(engine: Any, server: Any, web: Any) -> None:
    """Ends the server when its engine has died: whoever started it can start another."""
    while not engine.failed:
        await asyncio.sleep(1)
    logging.getLogger(__name__).error("the engine has failed; the server ends: %r", engine.failed)
    await asyncio.sleep(2)  # long enough for waiting requests to be told
    server.closing = True
    web.should_exit = True


def sentence_model(options: argparse.Namespace) -> Any:
    """The model for embeddings that the options name, if they name one."""
    name = getattr(options, "embedding_model", None)
    if name is None:
        return None
    from chatglm.serve.sentences import SentenceModel

    return SentenceModel(name, options.hub)


def loaded_engine(options: argparse.Namespace) -> tuple[Any, Any]:
    """The engine that the options name, and its tokenizer."""
    if getattr(options, "engine", "own") == "vllm":
        return _vllm(options)
    from chatglm.bare_loading import load_for_engine
    from chatglm.own_engine import engine_for

    model, tokenizer = load_for_engine(options)
    memory = None if options.cache_memory is None else round(options.cache_memory * 1e9)
    engine = engine_for(model, tokenizer, max_running=options.max_batch, kv_memory=memory)
    if model.device.type != "cpu":  # there the first requests would wait for compilers and tuning
        engine.warm_up()
    return engine, tokenizer


def _vllm(options: argparse.Namespace) -> tuple[Any, Any]:
    """vLLM on the model's folder, and our tokenizer of it."""
    from chatglm.engine.vllm_engine import open_vllm
    from chatglm.hub import resolve
    from chatglm.loading import demo_folder, load_tokenizer
    from chatglm.model.stream_decoder import StreamDecoder

    folder = demo_folder() if options.model is None else resolve(options.model, hub=options.hub)
    tokenizer = load_tokenizer(folder)
    sizes = {"max_num_seqs": options.max_batch, "tensor_parallel_size": options.tensor_parallel}
    return open_vllm(str(folder), tokenizer, lambda: StreamDecoder(tokenizer), **sizes), tokenizer


def free_address(host: str, port: int) -> int:
    """The port, or one that is free for 0.

    Raises:
        ConfigError: see `chatglm serve`: the address is taken or not this machine's.
    """
    with listening(host, port) as listener:
        return int(listener.getsockname()[1])


def _need_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtraError("fastapi", "serve", "chatglm serve") from None


def note(text: str) -> None:
    """A line for whoever has started the server."""
    sys.stderr.write(f"chatglm: {text}\n")
    sys.stderr.flush()
