"""`/v1/batches`: uploaded files of requests, answered in the background; they go on when a server begins anew."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request

from chatglm.errors import ChatGLMError
from chatglm.serve.batch import ENDPOINTS, BusyError, Results, count_rows, run_batch
from chatglm.serve.described_answers import BATCH, page_of
from chatglm.serve.description import described
from chatglm.serve.direct import Direct
from chatglm.serve.errors import ApiError, wrong
from chatglm.serve.files import ID, FileStore, page
from chatglm.serve.protocol.base import HARMLESS, Body
from chatglm.serve.tool_calls import new_id

if TYPE_CHECKING:
    from chatglm.serve.server import Server

_log = logging.getLogger(__name__)
MAX_LISTED = 100
WINDOW = 24 * 3600
PATIENCE = 2.0  # seconds
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")


class BatchRequest(Body):
    """Which file is to be answered."""

    harmless = HARMLESS - {"metadata"}

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: Literal["24h"] = "24h"
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None


assert set(ENDPOINTS) == set(BatchRequest.model_fields["endpoint"].annotation.__args__)  # type: ignore[union-attr]


class Batches:
    """All batches of a server. What is known of one stands in `ID.json` beside the files, its answers in `ID.data`.

    Args:
        app: what answers, in the way of ASGI.
        store: where the files are.
        max_batches: of one key that are not finished.
        at_once: requests of one batch that are answered at once.
    """

    def __init__(self, app: Any, store: FileStore, max_batches: int, at_once: int) -> None:
        self.app, self.store, self.max_batches, self.at_once = app, store, max_batches, at_once
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._known = {item["id"]: item for item in self._stored()}

    def begin(self) -> None:
        """Goes on with what an earlier server has left."""
        for item in self._known.values():
            if item["status"] in UNFINISHED:
                self._start(item)

    async def end(self) -> None:
        """Stops all; they go on when a server finds them again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def create(self, owner: str, asked: BatchRequest) -> dict[str, Any]:
        """A new batch.

        Raises:
            ApiError: 400, 404: no such file, or not for this; 429: too many are not finished.
        """
        file = self.store.get(asked.input_file_id, owner)
        if file.purpose != "batch":
            raise wrong("input_file_id", f"the file's purpose is {file.purpose!r}; it must be 'batch'")
        if sum(item["status"] in UNFINISHED for item in self.of(owner)) >= self.max_batches:
            message = f"{self.max_batches} batches of this key are not finished; wait, or cancel one"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=30)
        now = int(time.time())
        stamps = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        item = {
            "id": new_id("batch-"),
            "owner": owner,
            "object": "batch",
            "endpoint": asked.endpoint,
            "errors": None,
            "input_file_id": file.id,
            "completion_window": asked.completion_window,
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + WINDOW,
            **{f"{stamp}_at": None for stamp in stamps},
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": asked.metadata,
        }
        self._known[item["id"]] = item
        self._keep(item)
        self._start(item)
        return item

    def get(self, batch_id: str, owner: str) -> dict[str, Any]:
        """A batch of an owner.

        Raises:
            ApiError: 404.
        """
        item = self._known.get(batch_id)
        if item is None or item["owner"] != owner:
            raise ApiError(404, f"there is no batch {batch_id!r:.100}", code="batch_not_found", param="batch_id")
        return item

    def of(self, owner: str) -> list[dict[str, Any]]:
        """The batches of an owner, the newest first."""
        return [item for item in reversed(self._known.values()) if item["owner"] == owner]

    async def cancel(self, item: dict[str, Any]) -> None:
        """Ends a batch; what has been answered is kept in its files.

        Raises:
            ApiError: 409, it is over.
        """
        if item["status"] not in UNFINISHED:
            raise ApiError(409, f"the batch is {item['status']} already", code="batch_over", param="batch_id")
        self._at(item, "cancelling")
        task = self._tasks.get(item["id"])
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=PATIENCE)  # longer than that it is told as "cancelling"
        if item["status"] == "cancelling" and (task is None or task.done()):  # before it had begun
            self._finish(item)

    # one batch

    def _start(self, item: dict[str, Any]) -> None:
        task = self._tasks[item["id"]] = asyncio.ensure_future(self._carry_out(item))
        task.add_done_callback(lambda _: self._tasks.pop(item["id"], None))

    async def _carry_out(self, item: dict[str, Any]) -> None:
        try:
            if item["status"] != "cancelling":
                await self._answer(item)
            self._finish(item)
        except asyncio.CancelledError:
            if item["status"] != "cancelling":
                raise  # the server ends
            self._finish(item)
        except Exception as error:
            if not isinstance(error, ChatGLMError):
                _log.exception("the batch %s has failed", item["id"])
            told = {"code": "batch_failed", "message": str(error), "line": None, "param": None}
            item["errors"] = {"object": "list", "data": [told]}
            self._at(item, "failed")

    async def _answer(self, item: dict[str, Any]) -> None:
        source = self.store.path(self.store.get(item["input_file_id"], item["owner"]).id, "data")
        item["request_counts"]["total"] = await asyncio.to_thread(count_rows, source)
        self._at(item, "in_progress")
        counts = item["request_counts"]
        with await self._results(item) as results:

            def told(_: object) -> None:
                counts.update(completed=results.counts.completed, failed=results.counts.failed)

            told(None)
            # A line of its own at the gate: a batch must not keep its key's conversations waiting.
            send = Direct(self.app, f"{item['owner']}/batch").post
            late = max(1.0, item["expires_at"] - time.time())
            run = run_batch(source, results, send, at_once=self.at_once, endpoint=item["endpoint"], told=told)
            try:
                await asyncio.wait_for(run, late)
            except asyncio.TimeoutError:
                self._at(item, "expired")

    async def _results(self, item: dict[str, Any]) -> Results:
        """The answers there are. A server that is being replaced may still write some."""
        while True:
            try:
                return Results(self.store.path(item["id"], "data"))
            except BusyError:
                await asyncio.sleep(PATIENCE)

    def _finish(self, item: dict[str, Any]) -> None:
        """Makes files of the answers: those that are good, and the others."""
        ending = {"cancelling": "cancelled", "expired": "expired"}.get(item["status"], "completed")
        if ending == "completed":
            self._at(item, "finalizing")
        answers = self.store.path(item["id"], "data")
        parts = {True: self.store.new_part(), False: self.store.new_part()}
        if answers.exists():
            with answers.open("rb") as lines, parts[True].open("wb") as good, parts[False].open("wb") as bad:
                for line in lines:
                    if line.endswith(b"\n"):
                        (good if _is_good(json.loads(line)) else bad).write(line)
            for is_good, field in ((True, "output_file_id"), (False, "error_file_id")):
                part = parts[is_good]
                if part.stat().st_size:
                    name = f"{item['id']}_{'output' if is_good else 'error'}.jsonl"
                    item[field] = self.store.add(item["owner"], name, "batch_output", part).id
                part.unlink(missing_ok=True)
        self._at(item, ending)
        answers.unlink(missing_ok=True)

    def _at(self, item: dict[str, Any], status: str) -> None:
        item["status"] = status
        item[f"{status}_at"] = item.get(f"{status}_at") or int(time.time())
        self._keep(item)

    def _keep(self, item: dict[str, Any]) -> None:
        self.store.write(item["id"], item)

    def _stored(self) -> list[dict[str, Any]]:
        found = []
        for path in self.store.folder.glob("batch-*.json"):
            try:
                item = json.loads(path.read_text(encoding="utf-8-sig"))
                if isinstance(item, dict) and item.get("id") == path.stem and ID.fullmatch(path.stem):
                    found.append(item)
            except (OSError, ValueError):
                _log.warning("%s cannot be read and is left out", path.name)
        return sorted(found, key=lambda item: int(item["created_at"]))


def _is_good(line: dict[str, Any]) -> bool:
    return line["response"] is not None and line["response"]["status_code"] < 400


def _card(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "owner"}


def add_routes(app: FastAPI, server: Server, store: FileStore, answering: Any) -> None:
    """The routes. The batches are gone on with when the app starts, and stopped when it ends.

    Args:
        answering: the app that answers their requests.
    """
    config = server.config
    batches = Batches(answering, store, config.max_batches, min(config.batch_size, config.max_running))
    server.at_start.append(batches.begin)
    server.parts.push_async_callback(batches.end)

    @app.post("/v1/batches", openapi_extra=described(BatchRequest, BATCH))
    async def create(request: Request) -> dict[str, Any]:
        asked = await server.body(request, BatchRequest)
        server.check_open()
        return _card(batches.create(request.state.key, asked))

    @app.get("/v1/batches", openapi_extra=described(None, page_of(BATCH), query=("limit", "after")))
    async def listed(request: Request) -> dict[str, Any]:
        cards = [_card(item) for item in batches.of(request.state.key)]
        return page(cards, request.query_params.get("limit") or "20", request.query_params.get("after"), MAX_LISTED)

    @app.get("/v1/batches/{batch_id}", openapi_extra=described(None, BATCH))
    async def told(request: Request, batch_id: str) -> dict[str, Any]:
        return _card(batches.get(batch_id, request.state.key))

    @app.post("/v1/batches/{batch_id}/cancel", openapi_extra=described(None, BATCH))
    async def cancel(request: Request, batch_id: str) -> dict[str, Any]:
        item = batches.get(batch_id, request.state.key)
        await batches.cancel(item)
        return _card(item)
