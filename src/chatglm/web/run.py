"""`chatglm web`: checks the options, loads the model, shows the page until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chatglm.errors import MissingExtraError, SandboxError, UsageError
from chatglm.listening import LOOPBACK, known_hosts, listening, web_server
from chatglm.web.answering import Local, Remote
from chatglm.web.conversations import default_folder
from chatglm.web.gate import MOST_BYTES
from chatglm.web.users import Users
from chatglm.words import Words, choose, printable

EMBEDDED = "tiny-glm"
DEFAULT_TOOLS = ("calculator,current_time",)  # which reach nothing outside
# The extra that each page needs, and what it is told by.
_UIS = {"gradio": ("web", ("gradio", "fastapi", "uvicorn")), "streamlit": ("streamlit", ("streamlit", "yaml"))}
# What a model that is loaded elsewhere cannot be told from here.
_ELSEWHERE = (
    "hub", "device", "dtype", "quantize", "adapter", "prefix", "rope_ratio_meaning", "no_cache", "tools", "tier",
)  # fmt: skip


def start_web(options: argparse.Namespace) -> int:
    """Run `chatglm web` with parsed options. Everything that can be checked is checked before the model is loaded.

    Raises:
        ChatGLMError: an option's value, a port that is taken, packages that are missing, a model that cannot be loaded.
    """
    words = choose(options.lang)
    _need_packages(options.ui)
    _check(options)
    users = Users.read(options.auth_file) if options.auth_file else Users()
    if options.host not in LOOPBACK and not users.asked_for:
        _note(words("web_open_to_all", host=options.host, port=options.port))
    folder = _kept_in(options.conversations)
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(message)s")
    with ExitStack() as stack:
        listener = stack.enter_context(listening(options.host, options.port))  # a taken port is said at once
        answers = _answers(options, words, stack)
        app = _builder(options.ui)(
            answers,
            folder,
            hosts=known_hosts(options.host, options.allow_host or ()),
            users=users,
            embedded=options.model is None and options.api_base is None,
            language=options.lang,
        )
        host, port = listener.getsockname()[:2]
        listener.listen()  # whoever reads the address may come at once
        _note(words("web_ready", model=answers.name, url=f"http://{f'[{host}]' if ':' in host else host}:{port}/"))
        serve(app, listener, sockets=options.ui == "streamlit")
    return 0


def serve(app: Any, listener: Any, *, sockets: bool = False) -> None:
    """Answers on a socket until SIGINT or SIGTERM.

    Args:
        app: of ASGI.
        listener: it is bound.
        sockets: whether the page has a WebSocket.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="websockets-sansio" if sockets else "none",
        ws_max_size=MOST_BYTES,
        timeout_graceful_shutdown=1,  # an open page holds two connections for as long as it is there
    )
    server = web_server(config)

    async def answer() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
        await server.serve(sockets=[listener])

    asyncio.run(answer())


def _check(options: argparse.Namespace) -> None:
    if options.api_base is None:
        if options.api_key_env is not None:
            raise UsageError("--api-key-env has no meaning without a server; add --api-base URL")
    else:
        given = next((name for name in _ELSEWHERE if getattr(options, name, None)), None)
        if given is not None:
            raise UsageError(
                f"--{given.replace('_', '-')} is for a model that is loaded here; leave it or --api-base out"
            )
    if options.conversations and Path(options.conversations).exists() and not Path(options.conversations).is_dir():
        raise UsageError(f"--conversations is {options.conversations!r}; it must be a folder, which may be a new one")
    if options.no_code and options.tier:
        raise UsageError("--tier says how code is isolated, and --no-code that none is run; leave one out")


def _kept_in(named: str | None) -> Path:
    """The folder of the conversations, which is there afterwards."""
    folder = Path(named) if named else default_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UsageError(
            f"conversations cannot be kept in {folder}: {error.strerror}; name another folder by --conversations"
        ) from None
    return folder


def _answers(options: argparse.Namespace, words: Words, stack: ExitStack) -> Local | Remote:
    if options.api_base is not None:
        from chatglm.agent.remote_api import RemoteApi, key_from

        return Remote(RemoteApi(options.api_base, key_from(options.api_key_env)), options.model)
    from chatglm.tools import named

    tools = named(options.tools or DEFAULT_TOOLS)
    pool = None if options.no_code else _pool(options, words, stack)
    _note(words("loading", model=options.model or EMBEDDED))
    from chatglm.bare_loading import load_for_engine
    from chatglm.own_engine import engine_for

    model, tokenizer = load_for_engine(options)
    engine = engine_for(model, tokenizer).start()
    stack.callback(engine.close)
    name = Path(options.model).name if options.model else EMBEDDED
    return Local(engine, tokenizer, name, tools, pool)


def _pool(options: argparse.Namespace, words: Words, stack: ExitStack) -> Any:
    """Interpreters for the code mode; None, with the reason told, where code cannot be isolated.

    Raises:
        ChatGLMError: the same, where somebody has asked for a way to isolate it.
    """
    from chatglm.sandbox import SandboxPool, open_sandbox

    try:
        open_sandbox(options.tier or "auto").close()
    except (SandboxError, MissingExtraError) as error:
        if options.tier:
            raise
        _note(words("web_no_code", reason=error))
        return None
    pool = SandboxPool(tier=options.tier or "auto")
    stack.callback(pool.close)
    return pool


def _builder(ui: str) -> Any:
    """What makes the app."""
    if ui == "streamlit":
        from chatglm.web import streamlit_app

        return streamlit_app.build_app
    from chatglm.web import gradio_app

    return gradio_app.build_app


def _need_packages(ui: str) -> None:
    from importlib.util import find_spec

    if ui == "streamlit" and sys.version_info < (3, 11):
        raise UsageError(
            f"--ui streamlit needs Python 3.11 or later, and pip install 'chatglm[streamlit]' there; this is "
            f"{'.'.join(map(str, sys.version_info[:2]))}, where --ui gradio works"
        )
    extra, needed = _UIS[ui]
    for package in needed:  # found, not imported: that takes seconds
        if find_spec(package) is None:
            raise MissingExtraError(package, extra, "chatglm web" if ui == "gradio" else f"chatglm web --ui {ui}")


def _note(text: str) -> None:
    sys.stderr.write(f"chatglm: {printable(text)}\n")
    sys.stderr.flush()
