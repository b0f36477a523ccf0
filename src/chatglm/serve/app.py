"""The routes of the server, as a FastAPI app over one `Service`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from chatglm.errors import ChatGLMError
from chatglm.serve import (
    adapters,
    agent,
    batches,
    chat,
    completions,
    embeddings,
    files,
    legacy,
    messages,
    metrics,
    responses,
    tokens,
)
from chatglm.serve import described_answers as answers
from chatglm.serve.checks import Checks, refusal
from chatglm.serve.description import describe, described
from chatglm.serve.embeddings import EmbeddingRequest
from chatglm.serve.errors import ApiError, from_ours, from_validation
from chatglm.serve.protocol.chat import ChatRequest
from chatglm.serve.protocol.completions import CompletionRequest
from chatglm.serve.protocol.messages import CountRequest, MessagesRequest
from chatglm.serve.protocol.responses import ResponsesRequest
from chatglm.serve.server import Server, engine_failed
from chatglm.serve.stream import Gone, while_connected

_log = logging.getLogger(__name__)
CLIENT_GONE = 499  # as web servers log it; nobody reads it


def new_app(server: Server) -> FastAPI:
    """An app without routes: its errors, what is checked before every route, its beginning and its end."""

    @asynccontextmanager
    async def while_it_runs(_: FastAPI) -> AsyncIterator[None]:
        async with server.parts:
            for begin in server.at_start:
                begin()
            yield

    app = FastAPI(title="chatglm", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=while_it_runs)
    app.state.server = server
    _add_errors(app, server)
    app.add_middleware(Checks, server=server)
    if server.config.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=server.config.origins, allow_methods=["*"], allow_headers=["*"]
        )
    return app


def build_app(server: Server) -> FastAPI:
    """The app. Its engine's worker must run already, and is not ended by it."""
    app = new_app(server)
    _add_chat(app, server)
    _add_completions(app, server)
    _add_messages(app, server)
    _add_responses(app, server)
    _add_embeddings(app, server)
    _add_tokens(app, server)
    _add_models(app, server)
    _add_health(app, server)
    if server.config.alone:
        add_kept(app, server, app)
        adapters.add_routes(app, server)
    legacy.add_routes(app, server)
    agent.add_routes(app, server)
    describe(app, keys=server.keys.asked_for, messages_route=messages.ROUTE)
    return app


def add_kept(app: FastAPI, server: Server, answering: Any) -> None:
    """The routes of files, and of batches, whose requests an app answers: this one, or that of a cluster."""
    store = files.open_store(server)
    files.add_routes(app, server, store)
    batches.add_routes(app, server, store, answering)


def _add_chat(app: FastAPI, server: Server) -> None:
    service = server.service

    @app.post("/v1/chat/completions", openapi_extra=described(ChatRequest, answers.CHAT, streams=True))
    async def chat_completions(request: Request) -> Response:
        asked = await server.body(request, ChatRequest)
        jobs = partial(chat.jobs, service, asked)
        events = partial(chat.chunks, service, asked) if asked.stream else None
        return await server.answered(request, jobs, partial(chat.whole, service, asked), events)


def _add_completions(app: FastAPI, server: Server) -> None:
    service = server.service

    @app.post("/v1/completions", openapi_extra=described(CompletionRequest, answers.COMPLETION, streams=True))
    async def text_completions(request: Request) -> Response:
        asked = await server.body(request, CompletionRequest)
        completions.check_echo(asked)
        jobs = partial(completions.jobs, service, asked)
        events = partial(completions.chunks, service, asked) if asked.stream else None
        return await server.answered(request, jobs, partial(completions.whole, service, asked), events)


def _add_messages(app: FastAPI, server: Server) -> None:
    service = server.service

    @app.post(messages.ROUTE, openapi_extra=described(MessagesRequest, answers.MESSAGE, streams=True))
    async def anthropic_messages(request: Request) -> Response:
        asked = (await server.body(request, MessagesRequest)).chat()
        jobs = partial(chat.jobs, service, asked)
        events = partial(messages.chunks, asked) if asked.stream else None
        return await server.answered(
            request, jobs, partial(messages.whole, service, asked), events, error_event=messages.error_event
        )

    @app.post(f"{messages.ROUTE}/count_tokens", openapi_extra=described(CountRequest, answers.COUNT))
    async def count_tokens(request: Request) -> dict[str, Any]:
        asked = ChatRequest.model_validate((await server.body(request, CountRequest)).as_chat())
        service.adapter_of(asked.model)
        return {"input_tokens": len(chat.prompt_ids(service, asked))}


def _add_responses(app: FastAPI, server: Server) -> None:
    service = server.service

    @app.post("/v1/responses", openapi_extra=described(ResponsesRequest, answers.RESPONSE, streams=True))
    async def create_response(request: Request) -> Response:
        asked = await server.body(request, ResponsesRequest)
        wanted = asked.chat()
        jobs = partial(chat.jobs, service, wanted)
        events = partial(responses.chunks, asked, wanted) if asked.stream else None
        return await server.answered(request, jobs, partial(responses.whole, asked, wanted), events)


def _add_embeddings(app: FastAPI, server: Server) -> None:
    @app.post("/v1/embeddings", openapi_extra=described(EmbeddingRequest, answers.EMBEDDINGS))
    async def create_embeddings(request: Request) -> Response:
        asked = await server.body(request, EmbeddingRequest)
        async with await server.turn(request):
            work = server.in_time(embeddings.embeddings(server.service, asked))
            return JSONResponse(await while_connected(request, work))


def _add_tokens(app: FastAPI, server: Server) -> None:
    service = server.service

    @app.post("/tokenize", openapi_extra=described(tokens.TokenizeRequest, answers.TOKENS))
    async def tokenize(request: Request) -> dict[str, Any]:
        return tokens.tokenize(service, await server.body(request, tokens.TokenizeRequest))

    @app.post("/detokenize", openapi_extra=described(tokens.DetokenizeRequest, answers.DETOKENIZED))
    async def detokenize(request: Request) -> dict[str, Any]:
        return tokens.detokenize(service, await server.body(request, tokens.DetokenizeRequest))

    @app.get("/tokenizer_info", openapi_extra=described(None, answers.TOKENIZER))
    async def tokenizer_info() -> dict[str, Any]:
        return tokens.tokenizer_info(service)


def _add_models(app: FastAPI, server: Server) -> None:
    def card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": server.service.created,
            "owned_by": "chatglm",
            "max_model_len": server.service.context,
        }

    def names() -> list[str]:
        sentences = server.service.sentences
        of_sentences = [] if sentences is None else [sentences.name]
        return [server.config.name, *server.config.aliases, *server.service.adapters, *of_sentences]

    @app.get("/v1/models", openapi_extra=described(None, answers.MODELS))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card(name) for name in names()]}

    @app.get("/v1/models/{name:path}", openapi_extra=described(None, answers.MODEL))
    async def model(name: str) -> dict[str, Any]:
        if name not in names():
            server.service.adapter_of(name)  # refuses
        return card(name)


def _add_health(app: FastAPI, server: Server) -> None:
    engine = server.service.engine

    @app.get("/health", openapi_extra=described(None, answers.STATUS, statuses=(503,), is_open=True))
    async def health() -> Response:
        failed = getattr(engine, "failed", None)
        return JSONResponse({"status": "failed" if failed else "ok"}, 503 if failed else 200)

    @app.get("/ready", openapi_extra=described(None, answers.STATUS, statuses=(503,), is_open=True))
    async def ready() -> Response:
        busy = bool(getattr(engine, "failed", None)) or server.closing
        return JSONResponse({"status": "not ready" if busy else "ready"}, 503 if busy else 200)

    @app.get("/metrics", openapi_extra=described(kind="text", is_open=True))
    async def told() -> Response:
        return Response(server.metrics.text(), media_type=metrics.CONTENT_TYPE)


def _add_errors(app: FastAPI, server: Server) -> None:
    @app.exception_handler(ChatGLMError)
    async def ours(request: Request, error: ChatGLMError) -> Response:
        failure = from_ours(error)
        dead = failure.status == 500 and getattr(server.service.engine, "failed", None)
        return refusal(engine_failed() if dead else failure, request.url.path)

    @app.exception_handler(ValidationError)
    async def translated(request: Request, error: ValidationError) -> Response:
        return refusal(from_validation(error, None), request.url.path)

    @app.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        word = {404: f"there is no {request.method} {path:.200}", 405: f"{path:.200} has no method {request.method}"}
        answer = refusal(ApiError(error.status_code, word.get(error.status_code, str(error.detail))), path)
        if error.status_code == 405:
            answer.headers["Allow"] = ", ".join(_methods(app, request))
        return answer

    @app.exception_handler(Gone)
    async def gone(_: Request, __: Gone) -> Response:
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        _log.error("a request has failed", exc_info=error)
        failure = ApiError(500, "the server has failed; its log says why", code="internal_error")
        return refusal(failure, request.url.path)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """What can be asked of a path; a method may have a route of its own."""
    here = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in here if isinstance(route, Route) for method in route.methods or ()})
