"""A file of requests answered into a file of answers, in OpenAI's batch format; it goes on where it was ended.

Each line of the answers is written whole and at once, in whatever order answers come. So a run that was killed leaves
at most half a line, which the next run drops; rows that have an answer are not asked again.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from chatglm.errors import ConversationError, RemoteError, UsageError

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_LINE = 32 * 1024 * 1024  # bytes
MAX_ID = 512  # characters of a custom_id
BUSY = (429, 503)  # asked again later
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new try, where the server does not say

Send = Callable[[str, Any], Awaitable[tuple[int, dict[str, str], Any]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A request of the file."""

    number: int  # of its line, from 1
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that is no request."""

    number: int
    custom_id: str | None
    why: str


@dataclass(slots=True)
class Counts:
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


def read_rows(path: Path, endpoint: str | None = None) -> Iterator[Row | BadRow]:
    """The rows of a file as they stand in it; empty lines are left out.

    Args:
        path: of the file.
        endpoint: the one url that rows may name; None: any of `ENDPOINTS`.
    """
    seen: set[str] = set()
    for number, line in _lines(path):
        row = _row(number, line, (endpoint,) if endpoint else ENDPOINTS)
        if row.custom_id in seen:
            row = BadRow(number, row.custom_id, f"custom_id {row.custom_id!r} stands in an earlier line too")
        elif isinstance(row, Row):
            seen.add(row.custom_id)
        yield row


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of each line that is not empty; None for one that is too long."""
    with path.open("rb") as file:
        number, line = 1, file.readline(MAX_LINE)
        while line:
            whole = line.endswith(b"\n") or len(line) < MAX_LINE
            if not whole:
                while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield number, text if whole else None
            number, line = number + 1, file.readline(MAX_LINE)


def _row(number: int, line: bytes | None, endpoints: tuple[str, ...]) -> Row | BadRow:
    if line is None:
        return BadRow(number, None, f"it has more than {MAX_LINE} bytes")
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return BadRow(number, None, "it is not JSON")
    if not isinstance(item, dict):
        return BadRow(number, None, "it must be an object with custom_id, method, url and body")
    found = item.get("custom_id")
    custom_id = found if isinstance(found, str) and 0 < len(found) <= MAX_ID else None
    why = _wrong(item, custom_id, endpoints)
    if custom_id is None or why:
        return BadRow(number, custom_id, why)
    return Row(number, custom_id, item["url"], item["body"])


def _wrong(item: dict[str, Any], custom_id: str | None, endpoints: tuple[str, ...]) -> str:
    """What is wrong with a row; "" for nothing."""
    body = item.get("body")
    if custom_id is None:
        return f"custom_id is {item.get('custom_id')!r:.80}; it must be a text of 1 to {MAX_ID} characters"
    if item.get("method", "POST") != "POST":
        return f"method is {item['method']!r:.80}; it must be POST"
    if item.get("url") not in endpoints:
        return f"url is {item.get('url')!r:.80}; it must be {' or '.join(endpoints)}"
    if not isinstance(body, dict):
        return "body must be the object that the url takes"
    return "body asks for a stream; leave stream out" if body.get("stream") else ""


class BusyError(ConversationError):
    """Somebody else writes to the file."""


class Results:
    """The file of answers. Nobody else may write to it meanwhile.

    Args:
        path: a new file, or one that an earlier run has begun.

    Raises:
        BusyError: somebody else writes to it. ConversationError: it holds something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.counts = path, Counts()
        self.answered: set[str] = set()
        self.refused: set[int] = set()  # lines that are no requests
        try:
            self._file: IO[bytes] = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise ConversationError(f"{path} cannot be written: {error.strerror or error}") from None
        try:
            self._lock()
            self._file.truncate(self._read())
            self._file.seek(0, os.SEEK_END)
        except BaseException:
            self._file.close()
            raise

    def has(self, row: Row | BadRow) -> bool:
        """Whether a row has been answered."""
        return row.custom_id in self.answered if isinstance(row, Row) else row.number in self.refused

    def write(
        self, row: Row | BadRow, status: int = 0, headers: dict[str, str] | None = None, body: Any = None
    ) -> None:
        """Add the answer to a row, in one piece."""
        response = {"status_code": status, "request_id": (headers or {}).get("x-request-id", ""), "body": body}
        error = None
        if isinstance(row, BadRow):
            error = {"code": "invalid_row", "message": f"line {row.number}: {row.why}", "line": row.number}
        line = {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": row.custom_id,
            "response": None if error else response,
            "error": error,
        }
        self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._count(line)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"{self.path} is written by another run; wait for it, or name another file") from None

    def _read(self) -> int:
        """Learns what has been answered; gives where the last whole line ends."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._count(json.loads(line))
                except (ValueError, TypeError, LookupError):
                    raise ConversationError(
                        f"line {number} of {self.path} is no answer of a batch; name another file"
                    ) from None
                end += len(line)
        return end

    def _count(self, line: dict[str, Any]) -> None:
        """Takes note of one answer."""
        if line["response"] is None:
            self.refused.add(line["error"]["line"])
            self.counts.failed += 1
            return
        self.answered.add(line["custom_id"])
        if line["response"]["status_code"] < 400:
            self.counts.completed += 1
        else:
            self.counts.failed += 1


def count_rows(path: Path) -> int:
    """The rows of a file, good and bad.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    try:
        count = sum(1 for _ in _lines(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    if not count:
        raise UsageError(f"{path} holds no requests; write one JSON object a line")
    return count


async def run_batch(
    source: Path,
    results: Results,
    send: Send,
    *,
    at_once: int,
    endpoint: str | None = None,
    told: Callable[[Row | BadRow], object] = lambda _: None,
) -> None:
    """Have every row answered that is not yet.

    Args:
        source: the file of requests.
        results: the file of answers.
        send: posts a body to a path and gives status, headers and body of the answer.
        at_once: requests that are asked at the same time.
        endpoint: see `read_rows`.
        told: called with each row that now has an answer.

    Raises:
        RemoteError: the server cannot answer; run again to go on.
    """
    rows, stopping = read_rows(source, endpoint), False

    async def work() -> None:
        for row in rows:
            if stopping:
                return
            if results.has(row):
                continue
            if isinstance(row, Row):
                results.write(row, *await _answer(row, send))
            else:
                results.write(row)
            told(row)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(work()) for _ in range(at_once)]
    try:
        # Not `gather`: cancelled, it waits for a row that has missed its cancellation.
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        stopping = True
        pending = {task for task in tasks if not task.done()}
        while pending:  # `asyncio.wait_for` before Python 3.12 can swallow a cancellation
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.2)


async def _answer(row: Row, send: Send) -> tuple[int, dict[str, str], Any]:
    """The answer, asked for again where the server is busy."""
    for wait in (*WAITS, None):
        try:
            status, headers, body = await send(row.url, row.body)
            if status not in BUSY:
                return status, headers, body
            error = RemoteError(f"the server is busy: it has answered {status}", status=status, headers=headers)
        except RemoteError as caught:
            error = caught
        if wait is None:
            break
        await asyncio.sleep(_seconds(error.headers.get("retry-after"), wait))
    raise RemoteError(f"{error}\nWhat has been answered is kept; run the same command again to go on.")


def _seconds(told: str | None, otherwise: float) -> float:
    return min(60.0, float(told)) if told is not None and told.isascii() and told.isdigit() else otherwise
