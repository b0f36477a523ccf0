"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as vLLM has them, for folders that are allowed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.requests import Request

from chatglm.errors import CheckpointError, RequestError
from chatglm.own_engine import add_lora
from chatglm.serve.described_answers import ADAPTER
from chatglm.serve.description import described
from chatglm.serve.errors import ApiError, wrong
from chatglm.serve.protocol.base import Body
from chatglm.serve.protocol.chat import Name

if TYPE_CHECKING:
    from chatglm.serve.server import Server
    from chatglm.serve.service import Service

FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


class LoadRequest(Body):
    """A LoRA folder, and the model's name with it."""

    lora_name: Name
    lora_path: str


class UnloadRequest(Body):
    lora_name: Name


def add_routes(app: FastAPI, server: Server) -> None:
    """The routes, if the server allows them."""
    if server.config.allow_lora is None:
        return
    root = Path(server.config.allow_lora).resolve()
    one_at_a_time = asyncio.Lock()

    @app.post("/v1/load_lora_adapter", openapi_extra=described(LoadRequest, ADAPTER))
    async def load_lora_adapter(request: Request) -> dict[str, Any]:
        asked = await server.body(request, LoadRequest)
        server.check_open()
        async with one_at_a_time:
            await asyncio.to_thread(_load, server.service, asked, root)
            server.service.adapters[asked.lora_name] = asked.lora_name
        return {"status": "loaded", "id": asked.lora_name}

    @app.post("/v1/unload_lora_adapter", openapi_extra=described(UnloadRequest, ADAPTER))
    async def unload_lora_adapter(request: Request) -> dict[str, Any]:
        name = (await server.body(request, UnloadRequest)).lora_name
        async with one_at_a_time:
            adapter = server.service.adapters.get(name)
            if adapter is None:
                raise ApiError(404, f"no adapter {name!r} is loaded", code="model_not_found", param="lora_name")
            await asyncio.to_thread(_unload, server.service, adapter)
            del server.service.adapters[name]
        return {"status": "unloaded", "id": name}


def _load(service: Service, asked: LoadRequest, root: Path) -> None:
    taken = (service.config.name, *service.config.aliases, *service.adapters)
    if asked.lora_name in taken:
        raise wrong("lora_name", f"{asked.lora_name!r} is served already; choose another name, or unload it first")
    try:
        add_lora(service.engine, asked.lora_name, _allowed(asked.lora_path, root))
    except (CheckpointError, RequestError) as error:
        raise wrong("lora_path", str(error)) from None


def _unload(service: Service, adapter: str) -> None:
    try:
        service.engine.remove_adapter(adapter)
    except RequestError as error:
        raise ApiError(409, str(error), code="adapter_in_use", param="lora_name", retry_after=5) from None


def _allowed(path: str, root: Path) -> Path:
    """The folder a client names, if it and all of its files lie below the allowed one, links followed.

    Raises:
        ApiError: 400; whether something lies elsewhere is not told.
    """
    refused = wrong(
        "lora_path", f"lora_path is {path!r:.200}; it must be a folder with a LoRA adapter below the allowed"
    )
    try:
        folder = (root / path).resolve()
        places = [(folder / name).resolve() for name in FILES]
        below = folder != root and all(place.is_relative_to(root) for place in (folder, *places))
        if below and folder.is_dir() and any(place.is_file() for place in places[1:]):
            return folder
    except (OSError, ValueError, RuntimeError):  # names that no folder can have
        raise refused from None
    raise refused
