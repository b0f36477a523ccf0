"""What the gate looks at besides where Streamlit stands behind it, whose page is a WebSocket."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from chatglm.web.gate import Caller, Gate, Message, RefusedError
from chatglm.web.visitor import Visitor

KEY, PAGE = "x-chatglm-key", "x-chatglm-page"  # what the gate tells the page; nobody else can
# Of Streamlit's own addresses, what this page uses; it puts nothing where everybody can read it.
_OWN = re.compile(r"/(?:_stcore|media|component|app|bidi-components|\.well-known)(?:/|$)")
_USED = re.compile(r"/_stcore/(?:health|host-config|upload_file/.+)")


class StreamlitGate(Gate):
    """The gate of a Streamlit page. Its WebSocket is let in by the same checks, and tells the page who has come."""

    def __init__(self, *gate: Any) -> None:
        super().__init__(*gate)
        self._open: set[str] = set()

    async def socket(self, scope: Message, receive: Any, send: Any) -> None:
        try:
            key = self.key_of(caller := Caller.of(scope))
            if caller.is_new and not self.users.asked_for:
                raise RefusedError(403, "the page comes first\n")
        except RefusedError:
            await send({"type": "websocket.close", "code": 1008})
            return
        page = secrets.token_hex(16)
        told = {KEY: quote(key, safe=""), PAGE: page}
        kept = [(name, value) for name, value in scope["headers"] if name.decode("latin-1").lower() not in told]
        scope["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in told.items())]
        self._open.add(page)
        try:
            await self.app(scope, receive, send)
        finally:
            self._open.discard(page)
            self.visitors.left(page)

    def visitor(self, headers: Mapping[str, str]) -> Visitor:
        """Whose page that is.

        Args:
            headers: of its WebSocket.

        Raises:
            ChatGLMError: there are too many visitors.
        """
        page = headers[PAGE]
        visitor = self.visitors.get(unquote(headers[KEY]), page)
        if page not in self._open:  # it has gone meanwhile, and will not say so again
            self.visitors.left(page)
        return visitor

    def check(self, scope: Message, key: str) -> None:
        path = scope["path"]
        if _OWN.match(path) and not _USED.fullmatch(path):
            raise RefusedError(404, "there is nothing here that the page needs\n")

    def is_upload(self, path: str) -> bool:
        return path.startswith("/_stcore/upload_file/")

    def free(self) -> float:
        from chatglm.sandbox.processes import available_memory

        try:
            return available_memory()
        except FileNotFoundError:  # a system that does not tell
            return super().free()
