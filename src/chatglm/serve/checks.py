"""Before every route: the host, the key, an id for the request. After it: a line in the log and the counters."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response

from chatglm.listening import host_of, is_own_origin
from chatglm.serve import messages
from chatglm.serve.errors import ApiError
from chatglm.serve.tool_calls import new_id

if TYPE_CHECKING:
    from chatglm.serve.server import Server

_log = logging.getLogger(__name__)
_OPEN = {"/health", "/ready", "/metrics"}  # asked by programs that watch, which have no key
_MAX_ID = 128


def refusal(error: ApiError, path: str) -> Response:
    """An error as a response, in the format of its route."""
    body = messages.error_body(error) if path.startswith(messages.ROUTE) else error.body()
    return JSONResponse(body, error.status, error.headers())


class Checks:
    """ASGI middleware; a plain one, so that streams pass through it untouched."""

    def __init__(self, app: Any, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, headers = time.monotonic(), Headers(scope=scope)
        request_id = _id(headers.get("x-request-id", ""))
        status = 500

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        scope.setdefault("state", {})["request_id"] = request_id
        try:
            self._check(scope, headers)
        except ApiError as error:
            await refusal(error, scope["path"])(scope, receive, sending)
        else:
            await self.app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.monotonic() - began
            self.server.metrics.requests.labels(route, str(status)).inc()
            self.server.metrics.seconds.labels(route).observe(seconds)
            _log.info("%s %s %s %d %.3fs", request_id, scope["method"], route, status, seconds)

    def _check(self, scope: MutableMapping[str, Any], headers: Headers) -> None:
        if "key" in scope["state"]:  # asked by this program itself
            return
        # A page of another site must not reach a server on this machine through a name of its own.
        config, named = self.server.config, headers.get("host", "").lower()
        host = host_of(named)
        if config.hosts and host not in config.hosts:
            raise ApiError(403, f"the host {host!r:.100} is not this server's", code="unknown_host")
        # And it must not ask through our own name either: a browser sends some requests without a question.
        origin = headers.get("origin", "").lower()
        if not is_own_origin(origin, named) and origin not in config.origins and "*" not in config.origins:
            raise ApiError(403, f"pages of {origin!r:.100} may not ask here; see --allow-origin", code="unknown_origin")
        if scope["path"] not in _OPEN and scope["method"] != "OPTIONS":
            key = self.server.keys.check(headers.get("authorization"), headers.get("x-api-key"))
            scope["state"]["key"] = key


def _id(given: str) -> str:
    """The client's own id where it fits into a line of a log."""
    return given if given.isascii() and given.isprintable() and 0 < len(given) <= _MAX_ID else new_id("req_")
