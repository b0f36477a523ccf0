"""`/v1/files`: files a key has uploaded, in a folder of the server's, under names of the server's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from chatglm.errors import ConfigError
from chatglm.serve.described_answers import DELETED, FILE, page_of
from chatglm.serve.description import described
from chatglm.serve.errors import ApiError, wrong
from chatglm.serve.tool_calls import new_id

if TYPE_CHECKING:
    from chatglm.serve.server import Server

PURPOSES = ("batch", "user_data")
MAX_LISTED = 10_000
ID = re.compile(r"(file|batch)-[0-9a-f]{32}")
FORM_BYTES = 64 * 1024  # of what surrounds a file in its form
_ROUND_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file. `filename` is what the client calls it, and nothing else."""

    id: str
    owner: str
    bytes: int
    created_at: int
    filename: str
    purpose: str

    def card(self) -> dict[str, Any]:
        told = {name: value for name, value in asdict(self).items() if name != "owner"}
        return told | {"object": "file", "status": "processed", "expires_at": None}


class FileStore:
    """Files in one folder: `ID.json` tells of each, `ID.data` is its content.

    Args:
        folder: where they are; None: a private one that `close` removes.
        max_bytes: of one file.
        max_stored: of all files of one owner.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, folder: str | None, max_bytes: int, max_stored: int) -> None:
        self.max_bytes, self.max_stored, self.is_private = max_bytes, max_stored, folder is None
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="chatglm-files-") if folder is None else folder).resolve()
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"files cannot be kept in {folder!r}: {error.strerror or error}") from None

    def remove_halves(self) -> None:
        """Removes what a server that was killed has left half written. No other one may write here."""
        for half in self.folder.glob("*.part"):
            half.unlink()

    def close(self) -> None:
        """Removes a private folder."""
        if self.is_private:
            shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, file_id: str, ending: str) -> Path:
        """Where something of an id is; an id has a form that leaves no folder."""
        assert ID.fullmatch(file_id)
        return self.folder / f"{file_id}.{ending}"

    def get(self, file_id: str, owner: str) -> StoredFile:
        """A file of an owner.

        Raises:
            ApiError: 404, there is none; those of others are not told of.
        """
        found = self._read(file_id) if ID.fullmatch(file_id) else None
        if found is None or found.owner != owner:
            raise ApiError(404, f"there is no file {file_id!r:.100}", code="file_not_found", param="file_id")
        return found

    def of(self, owner: str) -> Iterator[StoredFile]:
        """The files of an owner, the newest first."""
        found = [self._read(path.stem) for path in self.folder.glob("file-*.json")]
        own = [file for file in found if file is not None and file.owner == owner]
        yield from sorted(own, key=lambda file: (file.created_at, file.id), reverse=True)

    def room(self, owner: str) -> int:
        """Bytes an owner may still store."""
        return self.max_stored - sum(file.bytes for file in self.of(owner))

    def add(self, owner: str, filename: str, purpose: str, content: Path) -> StoredFile:
        """Takes a finished file of this folder in; it is known whole or not at all."""
        made = StoredFile(new_id("file-"), owner, content.stat().st_size, int(time.time()), filename, purpose)
        os.replace(content, self.path(made.id, "data"))
        self.write(made.id, asdict(made))
        return made

    def write(self, name: str, item: dict[str, Any]) -> None:
        """What is known of an id, written whole or not at all."""
        half = self.path(name, "part")
        half.write_text(json.dumps(item, ensure_ascii=False), encoding="utf-8", errors="replace")
        os.replace(half, self.path(name, "json"))

    def remove(self, file: StoredFile) -> None:
        for ending in ("json", "data"):
            with suppress(FileNotFoundError):
                self.path(file.id, ending).unlink()

    def new_part(self) -> Path:
        """A place for a file that is being written."""
        return self.path(new_id("file-"), "part")

    def _read(self, file_id: str) -> StoredFile | None:
        try:
            return StoredFile(**json.loads(self.path(file_id, "json").read_text(encoding="utf-8-sig")))
        except (OSError, ValueError, TypeError):
            return None


def no_files() -> ApiError:
    """Where a cluster was given no place for files."""
    message = "this cluster keeps no files; start it with --files-dir FOLDER, one that all of its machines reach"
    return ApiError(404, message, code="no_files")


def open_store(server: Server) -> FileStore:
    """The files of a server, and what is left of those that another one was killed over is gone."""
    config = server.config
    store = FileStore(config.files_dir, config.max_file_bytes, config.max_stored_bytes)
    store.remove_halves()
    server.parts.callback(store.close)
    return store


def add_routes(app: FastAPI, server: Server, store: FileStore) -> None:
    """The routes, and the store as `app.state.files`."""
    app.state.files = store

    @app.post("/v1/files", openapi_extra=described(_UPLOAD, FILE))
    async def upload(request: Request) -> dict[str, Any]:
        server.check_open()
        return (await _uploaded(server, store, request)).card()

    @app.get("/v1/files", openapi_extra=described(None, page_of(FILE), query=("purpose", "limit", "after", "order")))
    async def listed(request: Request) -> dict[str, Any]:
        query = request.query_params
        purpose, after = query.get("purpose"), query.get("after")
        found = [file for file in store.of(request.state.key) if purpose in (None, file.purpose)]
        if query.get("order") == "asc":
            found.reverse()
        return page([file.card() for file in found], query.get("limit"), after, MAX_LISTED)

    @app.get("/v1/files/{file_id}", openapi_extra=described(None, FILE))
    async def told(request: Request, file_id: str) -> dict[str, Any]:
        return store.get(file_id, request.state.key).card()

    @app.get("/v1/files/{file_id}/content", openapi_extra=described(kind="bytes"))
    async def content(request: Request, file_id: str) -> Response:
        file = store.get(file_id, request.state.key)
        # Never shown as a page: it is whatever somebody has uploaded.
        headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment"}
        return FileResponse(store.path(file.id, "data"), media_type="application/octet-stream", headers=headers)

    @app.delete("/v1/files/{file_id}", openapi_extra=described(None, DELETED))
    async def remove(request: Request, file_id: str) -> dict[str, Any]:
        store.remove(store.get(file_id, request.state.key))
        return {"id": file_id, "object": "file", "deleted": True}


def page(cards: list[dict[str, Any]], limit: str | None, after: str | None, most: int) -> dict[str, Any]:
    """A part of a list, as OpenAI pages it.

    Raises:
        ApiError: 400, a limit that is no such number.
    """
    if limit is not None and not (limit.isascii() and limit.isdigit() and 1 <= len(limit) < 9 and int(limit)):
        raise wrong("limit", f"limit is {limit!r:.40}; it must be a whole number from 1 to {most}")
    size = min(int(limit or most), most)
    ids = [card["id"] for card in cards]
    start = ids.index(after) + 1 if after in ids else 0
    data = cards[start : start + size]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {
        "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": start + size < len(cards)
    }  # fmt: skip


async def _uploaded(server: Server, store: FileStore, request: Request) -> StoredFile:
    """The file of a form, stored.

    Raises:
        ApiError: 400, 408, 413: it is none, slow, or larger than what is left to its key.
    """
    room = min(store.max_bytes, store.room(request.state.key))
    message = f"the files of this key fill its {store.max_stored} bytes; delete some"
    full = ApiError(413, message, code="storage_full", param="file")
    if room <= 0:
        raise full
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise wrong("file", "the body must be multipart/form-data with file and purpose")
    pieces: AsyncGenerator[bytes, None] = server.incoming(request, room + FORM_BYTES)
    try:
        form = await MultiPartParser(
            request.headers, pieces, max_files=1, max_fields=8, max_part_size=FORM_BYTES
        ).parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise wrong("file", f"the form cannot be read: {error}") from None
    try:
        file, purpose = form.get("file"), form.get("purpose")
        if purpose not in PURPOSES:
            raise wrong("purpose", f"purpose is {purpose!r:.80}; it must be {' or '.join(PURPOSES)}")
        if not isinstance(file, UploadFile):
            raise wrong("file", "the form has no file; it must have one named file")
        if (file.size or 0) > room:
            raise ApiError(
                413, f"the file has {file.size} bytes; {room} are allowed", code="file_too_large", param="file"
            )
        part = store.new_part()
        try:
            await _copied(file, part)
            if (file.size or 0) > store.room(request.state.key):  # others may have come meanwhile
                raise full
            return store.add(request.state.key, _shown(file.filename), str(purpose), part)
        finally:
            part.unlink(missing_ok=True)
    finally:
        await form.close()


async def _copied(file: UploadFile, to: Path) -> None:
    with to.open("xb") as out:
        while piece := await file.read(_ROUND_BYTES):
            await asyncio.to_thread(out.write, piece)


def _shown(name: str | None) -> str:
    """A client's name for a file as it is told again: one visible line."""
    visible = "".join(letter for letter in (name or "") if letter.isprintable())
    return visible[:255] or "file"


_UPLOAD = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
    },
}
