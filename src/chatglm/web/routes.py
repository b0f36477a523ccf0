"""What belongs to one visitor only, by the cookie or the login: pictures, files and the conversation to take along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from zlib import crc32

from chatglm.errors import ChatGLMError
from chatglm.web.view import Picture
from chatglm.web.visitor import Visitor
from chatglm.web.visitors import Visitors

PLACE = "chatglm"  # where they lie, beside the page
_ATTACHED = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-store"}


def picture_address(turn: int, picture: Picture) -> str:
    """Where a picture lies; another one at its place has another address, or browsers would show the one they have."""
    return f"{PLACE}/picture/{turn}/{picture.number}?{crc32(picture.data):x}"


def file_address(name: str) -> str:
    """Where a file of the interpreter lies."""
    return f"{PLACE}/file/{quote(name)}"


def conversation_address() -> str:
    """Where the open conversation lies."""
    return f"{PLACE}/conversation"


def routes(visitors: Visitors) -> list[Any]:
    """The routes, for an app of Starlette or FastAPI behind a gate."""
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response
    from starlette.routing import Route

    def picture(visitor: Visitor, turn: int, number: int) -> Any:
        found = visitor.picture(turn, number)
        mime = found.mime if found.mime in ("image/png", "image/jpeg") else "application/octet-stream"
        return Response(found.data, media_type=mime, headers=_ATTACHED)

    def file(visitor: Visitor, name: str) -> Any:
        content = visitor.file(name)
        attached = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name.rpartition('/')[2])}"}
        return Response(content, media_type="application/octet-stream", headers=_ATTACHED | attached)

    def conversation(visitor: Visitor) -> Any:
        path = visitor.kept.path(visitor.conversation or "")
        return FileResponse(path, media_type="application/json", filename="conversation.json", headers=_ATTACHED)

    def answering(give: Callable[..., Any]) -> Callable[[Request], Any]:
        def answer(request: Request) -> Any:
            try:
                return give(visitors.get(request.scope["state"]["visitor"]), **request.path_params)
            except ChatGLMError as error:
                return PlainTextResponse(f"{error}\n", 404)

        return answer

    return [
        Route(f"/{PLACE}/picture/{{turn:int}}/{{number:int}}", answering(picture)),
        Route(f"/{PLACE}/file/{{name:path}}", answering(file)),
        Route(f"/{PLACE}/conversation", answering(conversation)),
    ]
