"""Before every page: the host, the origin, how much is sent, the login, and a cookie that says whose browser it is.

After it: headers.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from chatglm.listening import host_of, is_own_origin
from chatglm.web.users import Users
from chatglm.web.visitor import MOST_FILE_BYTES, MOST_FILES
from chatglm.web.visitors import Visitors

COOKIE = "chatglm_visitor"
MOST_BYTES = 16 * 1024 * 1024  # of a request, which is held in memory
MOST_UPLOADED = MOST_FILES * MOST_FILE_BYTES + 1024 * 1024  # of one with files, which are put on disk
LEAST_FREE = 1024**3  # bytes that uploads leave free on their disk
_COOKIE_SECONDS = 365 * 24 * 3600
_SENT = re.compile(rf"(?:^|;\s*){COOKIE}=([\w-]{{43}})\s*(?:;|$)", re.ASCII)
_PAGE = re.compile(r"/heartbeat/([\w-]+)$")

# What a page may load and do: nothing of other hosts. Gradio writes its start into the page, hence 'unsafe-inline'.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Gate:
    """ASGI middleware; a plain one, so that streams pass through it untouched.

    It puts the key of the visitor into the request's state, as `visitor`: the login, or else the cookie.

    Args:
        app: what stands behind it.
        hosts: names the server answers to; empty: any.
        users: who may come in.
        visitors: who is here; pages of others are not shown.
        uploads: the folder of uploads; None: how full its disk is does not matter.
    """

    def __init__(
        self, app: Any, hosts: Collection[str], users: Users, visitors: Visitors, uploads: str | None = None
    ) -> None:
        self.app, self.hosts, self.users, self.visitors, self.uploads = app, hosts, users, visitors, uploads

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":  # none of the pages uses one
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        cookie, is_new = _cookie(headers.get("cookie", ""))
        added = dict(_HEADERS)
        if is_new:
            secure = "; Secure" if scope.get("scheme") == "https" else ""
            added["set-cookie"] = (
                f"{COOKIE}={cookie}; Max-Age={_COOKIE_SECONDS}; Path=/; HttpOnly; SameSite=Lax{secure}"
            )

        body, begun = _Body(receive, _most(scope["path"])), False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in added.items()]
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in _HEADERS]
                message["headers"] = [*kept, *ours]
            await send(message)

        refusal = self._refused(headers)
        if refusal is None:
            user = await self.users.check(headers.get("authorization", "")) if self.users.asked_for else ""
            if user is None:
                added["www-authenticate"] = 'Basic realm="chatglm", charset="UTF-8"'
                refusal = 401, "a name and a password are needed\n"
            else:
                key = f"user:{user}" if user else f"cookie:{cookie}"
                scope.setdefault("state", {})["visitor"] = key
                refusal = self._of_another(scope, key) or self._too_much(scope["path"], headers, body.most)
        if refusal is not None:
            await _refuse(sending, *refusal)
            return
        try:
            await self.app(scope, body.receive, sending)
        except _TooMuchError:  # it did not say before how much there is
            if not begun:
                await _refuse(sending, 413, _told(body.most))

    def _refused(self, headers: dict[str, str]) -> tuple[int, str] | None:
        named, origin = headers.get("host", "").lower(), headers.get("origin", "").lower()
        # A page of another site must not reach a server on this machine through a name of its own ...
        if self.hosts and host_of(named) not in self.hosts:
            return 403, f"the host {host_of(named)!r:.100} is not this server's; see --allow-host\n"
        # ... nor ask through our own name: a browser sends some requests without a question.
        if not is_own_origin(origin, named):
            return 403, f"pages of {origin!r:.100} may not ask here\n"
        return None

    def _too_much(self, path: str, headers: dict[str, str], most: int) -> tuple[int, str] | None:
        said = headers.get("content-length", "")
        length = int(said) if said.isdecimal() else 0
        if length > most:
            return 413, _told(most)
        if _is_upload(path) and self.uploads is not None:
            free = shutil.disk_usage(self.uploads).free
            if free - (length or most) < LEAST_FREE:
                return 507, f"no files are taken: {free:,} bytes are free here, and {LEAST_FREE:,} must stay so\n"
        return None

    def _of_another(self, scope: MutableMapping[str, Any], key: str) -> tuple[int, str] | None:
        """Refuses to read along: the name of a page is made by the browser, and so no secret to count on."""
        path = scope["path"]
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        # All that are named: of a name that is given twice, frameworks differ in which one they read.
        pages = [*_PAGE.findall(path), *query.get("session_hash", ())]
        owners = {self.visitors.owner(page) for page in pages}
        return None if owners <= {None, key} else (403, "this page belongs to another visitor\n")


class _TooMuchError(Exception):
    """A body is longer than any may be."""


class _Body:
    """The body of a request, up to its most.

    Raises:
        _TooMuchError: there is more.
    """

    def __init__(self, receive: Any, most: int) -> None:
        self._receive, self.most, self._size = receive, most, 0

    async def receive(self) -> MutableMapping[str, Any]:
        message: MutableMapping[str, Any] = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self.most:
            raise _TooMuchError
        return message


def _is_upload(path: str) -> bool:
    return path.rstrip("/").endswith("/upload")


def _most(path: str) -> int:
    return MOST_UPLOADED if _is_upload(path) else MOST_BYTES


def _told(most: int) -> str:
    return f"the request is too long; it may have {most:,} bytes\n"


def _cookie(header: str) -> tuple[str, bool]:
    """The visitor's cookie, and whether it is a new one."""
    sent = _SENT.search(header)
    if sent is not None:
        return sent[1], False
    return secrets.token_urlsafe(32), True


async def _refuse(send: Any, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
