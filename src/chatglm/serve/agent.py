"""`/v1/agent/conversations`: answers that use the server's tools and interpreter; the events of a turn as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from chatglm.agent.wire import to_json
from chatglm.engine.request import SamplingParams
from chatglm.errors import SandboxError, SessionError
from chatglm.serve.conversations import Conversation, Conversations, RunningTurn
from chatglm.serve.described_answers import CONSENT, CONVERSATION, CONVERSATION_FILES, CONVERSATIONS, DELETED, STOPPED
from chatglm.serve.description import described
from chatglm.serve.errors import ApiError
from chatglm.serve.files import FileStore, no_files
from chatglm.serve.protocol.base import Body
from chatglm.serve.stream import DONE, event

if TYPE_CHECKING:
    from chatglm.serve.server import Server

ROUTE = "/v1/agent/conversations"
MAX_FILES = 16


class OpenRequest(Body):
    """How a conversation is to be led."""

    system: str | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    max_rounds: Annotated[int, Field(ge=0, le=100)] = 10
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


class SayRequest(Body):
    """A message, and ids of uploaded files for the interpreter."""

    text: str
    files: Annotated[list[str], Field(max_length=MAX_FILES)] = []


class ConsentRequest(Body):
    """The answer to a `consent_asked` event: its `id`, and whether the call may be carried out."""

    call: int
    allowed: bool


def add_routes(app: FastAPI, server: Server) -> None:
    """The routes, if the server has them."""
    if not server.config.agent:
        return
    config, service = server.config, server.service
    conversations = Conversations(service.engine, service.tokenizer, config, _pool(server), server.home)
    if not config.alone:  # what a cluster keeps is taken in elsewhere, and read here
        kept = config.files_dir and FileStore(config.files_dir, config.max_file_bytes, config.max_stored_bytes)
        app.state.files = kept or None
    server.at_start.append(conversations.begin)
    server.parts.push_async_callback(conversations.end)

    def asked_for(request: Request) -> Conversation:
        return conversations.get(request.path_params["conversation"], request.state.key)

    @app.post(ROUTE, openapi_extra=described(OpenRequest, CONVERSATION))
    async def open_conversation(request: Request) -> dict[str, Any]:
        asked = await server.body(request, OpenRequest)
        server.check_open()
        params = SamplingParams(
            temperature=config.temperature if asked.temperature is None else asked.temperature,
            top_p=config.top_p if asked.top_p is None else asked.top_p,
            seed=asked.seed,
        )
        options = {"system": asked.system, "max_rounds": asked.max_rounds, "max_new_tokens": asked.max_new_tokens}
        return (await conversations.open(request.state.key, params=params, **options)).card()

    @app.get(ROUTE, openapi_extra=described(None, CONVERSATIONS))
    async def listed(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [one.card() for one in conversations.of(request.state.key)]}

    @app.get(f"{ROUTE}/{{conversation}}", openapi_extra=described(None, CONVERSATION))
    async def told(request: Request) -> dict[str, Any]:
        return asked_for(request).card()

    @app.post(f"{ROUTE}/{{conversation}}/messages", openapi_extra=described(SayRequest, streams=True))
    async def say(request: Request) -> Response:
        asked = await server.body(request, SayRequest)
        conversation = asked_for(request)
        files = _contents(app.state.files, asked.files, request.state.key)
        place = await server.turn(request)
        try:
            turn = await conversations.send(conversation, asked.text, files)
        except BaseException:
            await place.aclose()
            raise
        place.push_async_callback(conversations.left, conversation, turn)
        place.enter_context(server.until_over(turn))
        return server.stream(_events(turn, partial(conversations.left, conversation, turn)), place)

    @app.post(f"{ROUTE}/{{conversation}}/consent", openapi_extra=described(ConsentRequest, CONSENT))
    async def consent(request: Request) -> dict[str, Any]:
        asked = await server.body(request, ConsentRequest)
        conversation = asked_for(request)
        try:
            conversation.session.answer(asked.call, asked.allowed)
        except SessionError as error:
            raise ApiError(409, str(error), code="nothing_asked", param="call") from None
        return {"call": asked.call, "allowed": asked.allowed}

    @app.post(f"{ROUTE}/{{conversation}}/stop", openapi_extra=described(None, STOPPED))
    async def stop(request: Request) -> dict[str, Any]:
        conversation = asked_for(request)
        conversation.session.stop()
        return {"id": conversation.id, "stopped": True}

    @app.delete(f"{ROUTE}/{{conversation}}", openapi_extra=described(None, DELETED))
    async def end(request: Request) -> dict[str, Any]:
        conversation = asked_for(request)
        await conversations.close(conversation)
        return {"id": conversation.id, "object": "agent.conversation", "deleted": True}

    @app.get(f"{ROUTE}/{{conversation}}/files", openapi_extra=described(None, CONVERSATION_FILES))
    async def files_of(request: Request) -> dict[str, Any]:
        sandbox = _interpreter(asked_for(request))
        found = await asyncio.to_thread(sandbox.list)
        return {"object": "list", "data": [{"name": file.name, "bytes": file.size} for file in found]}

    @app.get(f"{ROUTE}/{{conversation}}/files/{{name:path}}", openapi_extra=described(kind="bytes"))
    async def content(request: Request, name: str) -> Response:
        sandbox = _interpreter(asked_for(request))
        try:
            data = await asyncio.to_thread(sandbox.get, name)
        except SandboxError as error:
            raise ApiError(404, str(error), code="file_not_found", param="name") from None
        headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment"}
        return Response(data, media_type="application/octet-stream", headers=headers)


async def _events(turn: RunningTurn, left: Callable[[], Awaitable[None]]) -> AsyncGenerator[bytes, None]:
    """The events of a turn as server-sent events; at the last one the conversation is free for the next message."""
    async for item in turn.events():
        told = to_json(item)
        yield event(told, told["event"])
    await left()
    yield event(DONE)


def _contents(store: FileStore | None, ids: list[str], owner: str) -> list[tuple[str, bytes]]:
    if store is None:
        if ids:
            raise no_files()
        return []
    files = [store.get(file_id, owner) for file_id in ids]
    return [(file.filename, store.path(file.id, "data").read_bytes()) for file in files]


def _interpreter(conversation: Conversation) -> Any:
    if conversation.sandbox is None:
        raise ApiError(
            409, "the conversations of this server have no interpreter; start it with --code", code="no_interpreter"
        )
    return conversation.sandbox


def _pool(server: Server) -> Any:
    if not server.config.code:
        return None
    from chatglm.sandbox import SandboxPool

    return SandboxPool(tier=server.config.tier)
