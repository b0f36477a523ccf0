"""The app asked by this program itself: the same handlers, checks and errors as over HTTP, without a connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

Message = MutableMapping[str, Any]


class Direct:
    """Posts requests to an ASGI app.

    Args:
        app: as `build_app` makes it.
        key: the name of the key that is counted, see `Keys.check`.
    """

    def __init__(self, app: Any, key: str) -> None:
        self.app, self.key = app, key

    async def post(self, path: str, body: Any) -> tuple[int, dict[str, str], Any]:
        """The status, the headers and the body of the answer."""
        sent = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])
        told: dict[str, Any] = {"status": 500, "headers": {}, "body": b""}

        async def receive() -> Message:
            message = next(sent, None)
            return message if message is not None else await asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                told["headers"] = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            else:
                told["body"] += message.get("body", b"")

        await self.app(self._scope(path), receive, send)
        return told["status"], told["headers"], json.loads(told["body"])

    def _scope(self, path: str) -> Message:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": None,
            "server": None,
            "state": {"key": self.key},
        }
