"""The app's description of itself (`/openapi.json`): what bodies look like, with every reference in it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from chatglm.serve.protocol.base import Body

_REFERENCE = "#/components/schemas/{model}"


def described(model: type[Body]) -> dict[str, Any]:
    """A request's body for the description; routes read the body themselves. `describe` finds what it refers to."""
    schema = model.model_json_schema(ref_template=_REFERENCE)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Has the app's description hold what the bodies refer to. Call it when all routes are there."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            page = plain()
            schemas = page.setdefault("components", {}).setdefault("schemas", {})
            for schema in _bodies(page):
                schemas.update(schema.pop("$defs", {}))
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _bodies(page: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of all JSON bodies."""
    operations = [operation for path in page["paths"].values() for operation in path.values()]
    contents = [operation.get("requestBody", {}).get("content", {}) for operation in operations]
    return [content["application/json"]["schema"] for content in contents if "application/json" in content]
