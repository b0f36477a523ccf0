"""The app around the Gradio page: who may come in, pictures and files of a conversation, and Gradio behind it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chatglm.web.answering import Local, Remote
from chatglm.web.gradio_gate import GradioGate
from chatglm.web.routes import routes
from chatglm.web.users import Users
from chatglm.web.visitor import MOST_FILE_BYTES
from chatglm.web.visitors import Visitors, visitors_of
from chatglm.words import Language

THREADS = 200  # requests that are carried out at once


def build_app(
    answers: Local | Remote,
    folder: Path,
    *,
    hosts: Collection[str] = (),
    users: Users | None = None,
    embedded: bool = False,
    language: Language | None = None,
    visitors: Visitors | None = None,
) -> Any:
    """The whole app, for any ASGI server.

    Args:
        answers: where answers come from.
        folder: where conversations are kept.
        hosts: names it answers to; empty: any.
        users: who may come in; None: everybody.
        embedded, language: as `Page` has them.
        visitors: None: made of the others.
    """
    uploads = _set_up_gradio()
    import gradio as gr
    from fastapi import FastAPI

    from chatglm.web.gradio_page import CSS, Page, theme

    here = visitors if visitors is not None else visitors_of(answers, folder)
    page = Page(here, answers, uploads=Path(uploads), embedded=embedded, language=language)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        import anyio.to_thread

        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        here.begin()
        yield
        here.close()
        shutil.rmtree(uploads, ignore_errors=True)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.router.routes.extend(routes(here))
    app = gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        footer_links=[],
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
        run_history=False,
        show_error=False,
        max_file_size=MOST_FILE_BYTES,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        i18n=page.i18n,
        theme=theme(),
        css=CSS,
    )
    return GradioGate(app, hosts, users or Users(), here, uploads=uploads)


def _set_up_gradio() -> str:
    """Before Gradio is imported: nothing is told to anybody, and uploads lie in a folder that nobody else can read."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder = tempfile.mkdtemp(prefix="chatglm-web-")
    return folder
