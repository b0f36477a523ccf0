"""The app around the page: who may come in, pictures and files of a conversation, and Gradio behind it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chatglm.errors import ChatGLMError
from chatglm.web.answering import Local, Remote
from chatglm.web.conversations import Conversations, new_folder
from chatglm.web.gate import Gate
from chatglm.web.gradio_draw import PLACE
from chatglm.web.users import Users
from chatglm.web.visitor import MOST_FILE_BYTES, Visitor
from chatglm.web.visitors import Visitors
from chatglm.words import Language

THREADS = 200  # requests that are carried out at once
_ATTACHED = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-store"}


def visitors_of(answers: Local | Remote, folder: Path) -> Visitors:
    """The visitors of a server whose conversations lie in a folder.

    Raises:
        ConversationError: the folder cannot be made.
    """
    new_folder(folder)

    def make(key: str) -> Visitor:
        visitor = Visitor(answers, Conversations(folder, key))
        visitor.resume()
        return visitor

    return Visitors(make)


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
    _add_routes(app, here)
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
    return Gate(app, hosts, users or Users(), here, uploads)


def _set_up_gradio() -> str:
    """Before Gradio is imported: nothing is told to anybody, and uploads lie in a folder that nobody else can read."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder = tempfile.mkdtemp(prefix="chatglm-web-")
    return folder


def _add_routes(app: Any, visitors: Visitors) -> None:
    """What belongs to one visitor only, by the cookie or the login."""
    from fastapi import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response

    def visitor(request: Any) -> Visitor:
        return visitors.get(request.scope["state"]["visitor"])

    def picture(request: Any, turn: int, number: int) -> Any:
        found = visitor(request).picture(turn, number)
        mime = found.mime if found.mime in ("image/png", "image/jpeg") else "application/octet-stream"
        return Response(found.data, media_type=mime, headers=_ATTACHED)

    def file(request: Any, name: str) -> Any:
        content = visitor(request).file(name)
        attached = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name.rpartition('/')[2])}"}
        return Response(content, media_type="application/octet-stream", headers=_ATTACHED | attached)

    def conversation(request: Any) -> Any:
        here = visitor(request)
        path = here.kept.path(here.conversation or "")
        return FileResponse(path, media_type="application/json", filename="conversation.json", headers=_ATTACHED)

    def refused(_: Any, error: Exception) -> Any:
        return PlainTextResponse(f"{error}\n", 404)

    for handler in (picture, file, conversation):
        handler.__annotations__["request"] = Request
    app.add_api_route(f"/{PLACE}/picture/{{turn}}/{{number}}", picture, response_model=None)
    app.add_api_route(f"/{PLACE}/file/{{name:path}}", file, response_model=None)
    app.add_api_route(f"/{PLACE}/conversation", conversation, response_model=None)
    app.add_exception_handler(ChatGLMError, refused)
