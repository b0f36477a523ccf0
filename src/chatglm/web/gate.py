"""Before every page: the host, the origin, how much is sent, the login, and a cookie that says whose browser it is.

After it: headers. What the libraries of the pages need besides is in `gradio_gate` and `streamlit_gate`.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass
from typing import Any

from chatglm.listening import host_of, is_own_origin
from chatglm.web.users import TooManyWrongError, Users
from chatglm.web.visitor import MOST_FILE_BYTES, MOST_FILES
from chatglm.web.visitors import Visitors

COOKIE, TICKET = "chatglm_visitor", "chatglm_ticket"
MOST_BYTES = 16 * 1024 * 1024  # of a request, which is held in memory
MOST_UPLOADED = MOST_FILES * MOST_FILE_BYTES + 1024 * 1024  # of one with files
LEAST_FREE = 1024**3  # bytes that uploads leave free where they are put
_COOKIE_SECONDS = 365 * 24 * 3600
_SENT = re.compile(rf"(?:^|;\s*){COOKIE}=([\w-]{{43}})\s*(?:;|$)", re.ASCII)
_TICKET = re.compile(rf"(?:^|;\s*){TICKET}=([\w.]{{1,1000}})\s*(?:;|$)", re.ASCII)

# What a page may load and do: nothing of other hosts. The pages have scripts written into them, hence 'unsafe-inline'.
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
Message = MutableMapping[str, Any]


class RefusedError(Exception):
    """A request is not answered.

    Args:
        status: of HTTP.
        text: what is told.
        headers: of the answer.
    """

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


@dataclass(frozen=True)
class Caller:
    """Who asks, as the headers of a request tell it.

    Attributes:
        headers: by their names in small letters.
        cookie: of this browser; a new one where it has none.
        is_new: whether it had none.
        address: it asks from.
    """

    headers: dict[str, str]
    cookie: str
    is_new: bool
    address: str

    @classmethod
    def of(cls, scope: Message) -> Caller:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        sent = _SENT.search(headers.get("cookie", ""))
        cookie = secrets.token_urlsafe(32) if sent is None else sent[1]
        return cls(headers, cookie, sent is None, (scope.get("client") or ("",))[0])

    @property
    def ticket(self) -> str:
        sent = _TICKET.search(self.headers.get("cookie", ""))
        return "" if sent is None else sent[1]


class Gate:
    """ASGI middleware; a plain one, so that streams pass through it untouched.

    It puts the key of the visitor into the request's state, as `visitor`: the login, or else the cookie.

    Args:
        app: what stands behind it.
        hosts: names the server answers to; empty: any.
        users: who may come in.
        visitors: who is here.
    """

    def __init__(self, app: Any, hosts: Collection[str], users: Users, visitors: Visitors) -> None:
        self.app, self.hosts, self.users, self.visitors = app, hosts, users, visitors

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.socket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # what a page's library may need otherwise

    async def socket(self, scope: Message, receive: Any, send: Any) -> None:
        """A WebSocket; there is none."""
        await send({"type": "websocket.close", "code": 1008})

    def check(self, scope: Message, key: str) -> None:
        """Whether the visitor may ask for this.

        Raises:
            RefusedError: no.
        """

    def is_upload(self, path: str) -> bool:
        """Whether files are sent there."""
        return False

    def free(self) -> float:
        """Bytes that are free where uploads are put."""
        return math.inf

    # every request

    def key_of(self, caller: Caller) -> str:
        """The visitor who asks.

        Raises:
            RefusedError: nobody who may.
        """
        named, origin = caller.headers.get("host", "").lower(), caller.headers.get("origin", "").lower()
        # A page of another site must not reach a server on this machine through a name of its own ...
        if self.hosts and host_of(named) not in self.hosts:
            raise RefusedError(403, f"the host {host_of(named)!r:.100} is not this server's; see --allow-host\n")
        # ... nor ask through our own name: a browser sends some requests without a question.
        if not is_own_origin(origin, named):
            raise RefusedError(403, f"pages of {origin!r:.100} may not ask here\n")
        if not self.users.asked_for:
            return f"cookie:{caller.cookie}"
        try:
            user = self.users.check(caller.headers.get("authorization", ""), caller.address, caller.ticket)
        except TooManyWrongError as error:
            wait = math.ceil(error.seconds)
            text = f"too many passwords were wrong; try again in {wait} s\n"
            raise RefusedError(429, text, **{"retry-after": str(wait)}) from None
        if user is None:
            asks = {"www-authenticate": 'Basic realm="chatglm", charset="UTF-8"'}
            raise RefusedError(401, "a name and a password are needed\n", **asks)
        return f"user:{user}"

    async def _request(self, scope: Message, receive: Any, send: Any) -> None:
        caller, path = Caller.of(scope), scope["path"]
        body, begun = _Body(receive, MOST_UPLOADED if self.is_upload(path) else MOST_BYTES), False
        cookies = [self._cookie(scope, COOKIE, caller.cookie)] if caller.is_new else []

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in _HEADERS]
                ours = [*_HEADERS.items(), *(("set-cookie", cookie) for cookie in cookies)]
                message["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in ours)]
            await send(message)

        try:
            key = self.key_of(caller)
            user = key.partition(":")[2] if self.users.asked_for else None
            if user is not None and caller.ticket != (ticket := self.users.ticket(user)):
                cookies.append(self._cookie(scope, TICKET, ticket))
            scope.setdefault("state", {})["visitor"] = key
            self.check(scope, key)
            self._check_length(path, caller.headers.get("content-length", ""), body.most)
            await self.app(scope, body.receive, sending)
        except RefusedError as refusal:
            if not begun:  # else it has told less than it sends, and the answer breaks off
                await _refuse(sending, refusal)

    def _check_length(self, path: str, said: str, most: int) -> None:
        length = int(said) if said.isdecimal() else 0
        if length > most:
            raise _too_long(most)
        if self.is_upload(path) and (free := self.free()) - (length or most) < LEAST_FREE:
            told = f"no files are taken: {free:,} bytes are free here, and {LEAST_FREE:,} must stay so\n"
            raise RefusedError(507, told)

    @staticmethod
    def _cookie(scope: Message, name: str, value: str) -> str:
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        lasts = f"; Max-Age={_COOKIE_SECONDS}" if name == COOKIE else ""
        return f"{name}={value}{lasts}; Path=/; HttpOnly; SameSite=Lax{secure}"


class _Body:
    """The body of a request, up to its most.

    Raises:
        RefusedError: there is more.
    """

    def __init__(self, receive: Any, most: int) -> None:
        self._receive, self.most, self._size = receive, most, 0

    async def receive(self) -> Message:
        message: Message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self.most:
            raise _too_long(self.most)
        return message


def _too_long(most: int) -> RefusedError:
    return RefusedError(413, f"the request is too long; it may have {most:,} bytes\n")


async def _refuse(send: Any, refusal: RefusedError) -> None:
    body = refusal.text.encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **refusal.headers}
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": sent})
    await send({"type": "http.response.body", "body": body})
