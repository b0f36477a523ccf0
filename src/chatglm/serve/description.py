"""The app's description of itself (`/openapi.json`), which is made when somebody first asks for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.routing import APIRoute

from chatglm.serve import described_answers
from chatglm.serve.described_answers import Schema
from chatglm.serve.protocol.base import Body

_REFERENCE = "#/components/schemas/{model}"
_OURS = "chatglm"  # where `described` puts what it is told
_EVENTS = "text/event-stream"
_MEDIA = {"json": "application/json", "bytes": "application/octet-stream", "text": "text/plain"}
_PARAMETER = re.compile(r"{(\w+)}")
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


@dataclass(frozen=True, slots=True)
class _Told:
    body: type[Body] | Schema | None
    answer: Schema | None
    streams: bool
    media: str
    query: Sequence[str]
    statuses: Sequence[int]
    is_open: bool


def described(
    body: type[Body] | Schema | None = None,
    answer: Schema | None = None,
    *,
    streams: bool = False,
    kind: Literal["json", "bytes", "text"] = "json",
    query: Sequence[str] = (),
    statuses: Sequence[int] = (),
    is_open: bool = False,
) -> dict[str, Any]:
    """What a route's description says besides its path: for `openapi_extra`.

    Args:
        body: of a request; a schema stands for a form.
        answer: the schema of a whole answer in JSON; None: there is none.
        streams: whether an answer can be a stream of events.
        kind: of an answer that is no JSON.
        query: names of query parameters.
        statuses: other than 200 that have the same answer.
        is_open: whether it needs no key.
    """
    return {_OURS: _Told(body, answer, streams, _MEDIA[kind], query, statuses, is_open)}


def describe(app: FastAPI, *, keys: bool, messages_route: str) -> None:
    """Has the app's description hold what routes are described by. Call it when all routes are there.

    Args:
        keys: whether keys are asked for.
        messages_route: below it errors have Anthropic's form.
    """
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for route in app.routes:
                if isinstance(route, APIRoute):
                    error = "MessagesError" if route.path.startswith(messages_route) else "Error"
                    route.openapi_extra = _operation(route, error, keys)
            page = plain()
            _complete(page, keys)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _operation(route: APIRoute, error: str, keys: bool) -> dict[str, Any]:
    told: _Told = (route.openapi_extra or described())[_OURS]
    if told.media == _MEDIA["json"]:
        whole = {} if told.answer is None else {told.media: {"schema": told.answer}}
    else:
        whole = {told.media: {"schema": {"type": "string"}}}
    events: dict[str, Any] = {_EVENTS: {}} if told.streams else {}
    answer = {"description": "The answer", "content": {**whole, **events}}
    refusal = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=error)}}}
    made: dict[str, Any] = {
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _names(route)),
            *({"name": name, "in": "query", "required": False, "schema": {"type": "string"}} for name in told.query),
        ],
        "responses": {
            **{str(status): answer for status in (200, *told.statuses)},
            "default": {"description": "A refusal or a failure", "content": refusal},
        },
    }
    if told.body is not None:
        made["requestBody"] = {"required": True, "content": _content(told.body)}
    if keys and not told.is_open:
        made["security"] = [{name: []} for name in _KEYS]
    return made


def _names(route: APIRoute) -> list[str]:
    declared = {field.name for field in route.dependant.path_params}
    return [name for name in _PARAMETER.findall(route.path_format) if name not in declared]


def _content(body: type[Body] | Schema) -> dict[str, Any]:
    if isinstance(body, type):
        return {"application/json": {"schema": body.model_json_schema(ref_template=_REFERENCE)}}
    return {"multipart/form-data": {"schema": body}}


def _complete(page: dict[str, Any], keys: bool) -> None:
    """Adds what operations refer to, and takes out what no route of this app does."""
    components = page.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= {"Error": described_answers.ERROR, "MessagesError": described_answers.MESSAGES_ERROR}
    if keys:
        components["securitySchemes"] = _KEYS
    for path in page["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schemas.update(content["schema"].pop("$defs", {}))
