"""What clients of a cluster reach: reads a request and has it answered by the part of the cluster that can."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chatglm.serve.access import Keys
from chatglm.serve.checks import refusal
from chatglm.serve.cluster.asked import Asked, asked_of
from chatglm.serve.cluster.relay import Relayed, lost, replica_errors
from chatglm.serve.config import ServerConfig
from chatglm.serve.errors import ApiError
from chatglm.serve.files import FORM_BYTES, no_files
from chatglm.serve.tool_calls import new_id

SESSION_HEADER = "x-session-id"
KEPT = ("/v1/files", "/v1/batches")
CONVERSATIONS = "/v1/agent/conversations"


class Front:
    """Made by Ray Serve; as many as are needed to pass the pieces of all answers on.

    Args:
        replicas: Ray's handle of the replicas.
        keeper: Ray's handle of the `Keeper`; None: nothing is kept.
        config: of the server.
        keys: who may ask.
    """

    def __init__(self, replicas: Any, keeper: Any, config: ServerConfig, keys: Keys) -> None:
        self.replicas, self.config, self.keys = replicas, config, keys
        self._replicas = replicas.options(stream=True)
        self._keeper = None if keeper is None else keeper.options(stream=True)

    async def __call__(self, request: Request) -> Response:
        """Ray's way of asking."""
        path, headers = request.url.path, request.headers
        is_kept = path.startswith(KEPT)
        try:
            if is_kept:  # an upload may be large: whose it is comes first
                self.keys.check(headers.get("authorization"), headers.get("x-api-key"))
            if is_kept and self._keeper is None:
                raise no_files()
            # A new conversation is one that nobody knows: of replicas alike it goes to the one that has fewer.
            session = new_id("") if path == CONVERSATIONS else headers.get(SESSION_HEADER)
            asked = asked_of(request.scope, await self._read(request), session)
            if path == CONVERSATIONS and request.method == "GET" and self.config.agent:
                return await self._everywhere(asked)
            return Relayed(self._keeper if is_kept else self._replicas, asked)
        except ApiError as error:
            return refusal(error, path)

    async def _read(self, request: Request) -> bytes:
        most = self.config.max_body_bytes
        if request.method == "POST" and request.url.path == KEPT[0]:
            most = self.config.max_file_bytes + FORM_BYTES
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise ApiError(413, f"the body has more than {most} bytes", code="body_too_large")
            parts.append(part)
        return b"".join(parts)

    async def _everywhere(self, asked: Asked) -> Response:
        """The lists of all replicas as one; a refusal of one of them is that of all.

        Raises:
            ApiError: 503, a replica has failed meanwhile.
        """
        try:
            answers = await self.replicas.broadcast("whole", asked).results_async()
        except replica_errors():
            raise lost() from None
        told = [(status, json.loads(body)) for status, body in answers]
        refused = next(((status, body) for status, body in told if status >= 400), None)
        if refused is not None:
            return JSONResponse(refused[1], refused[0])
        return JSONResponse({"object": "list", "data": [item for _, body in told for item in body["data"]]})
