"""`chatglm batch`: a file of requests answered by a model loaded here, or by a server that runs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from chatglm.agent.remote_api import RemoteApi, key_from
from chatglm.errors import UsageError
from chatglm.serve.batch import BadRow, Counts, Results, Row, Send, count_rows, run_batch

WIDTH = 30  # of the bar
PATIENCE = 24 * 3600.0  # seconds that one answer may take
BETWEEN = 0.1  # seconds between two drawings


def start_batch(options: argparse.Namespace) -> int:
    """Run `chatglm batch` with parsed options.

    Args:
        options: as `chatglm.cli` parses them.

    Returns:
        0: every row has an answer; 1: some have an error instead.

    Raises:
        UsageError: files that cannot be, contradictory options. RemoteError: the server does not answer.
    """
    source, target = Path(options.input), Path(options.output)
    if options.concurrency < 1:
        raise UsageError(f"--concurrency is {options.concurrency}; it must be at least 1")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{source} is named for the requests and for the answers; name two files")
    total = count_rows(source)
    with Results(target) as results:
        results.counts.total = total
        progress = Progress(results.counts, sys.stderr)
        ask = _remote if options.api_base else _local
        try:
            ask(options, lambda send: _run(source, results, send, options.concurrency, progress))
        finally:
            progress.end()
        return 1 if results.counts.failed else 0


Run = Callable[[Send], None]


def _remote(options: argparse.Namespace, run: Run) -> None:
    api = RemoteApi(options.api_base, key_from(options.api_key_env), timeout=PATIENCE)
    with ThreadPoolExecutor(options.concurrency) as pool:

        async def send(path: str, body: object) -> tuple[int, dict[str, str], object]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, api.ask, path.removeprefix("/v1"), body)  # type: ignore[arg-type]

        run(send)


def _local(options: argparse.Namespace, run: Run) -> None:
    from chatglm.serve.run import loaded_server

    options.max_running, options.timeout = options.concurrency, PATIENCE  # nobody sits and waits
    with loaded_server(options) as direct:
        run(direct.post)


def _run(source: Path, results: Results, send: Send, at_once: int, progress: Progress) -> None:
    asyncio.run(run_batch(source, results, send, at_once=at_once, told=progress.told))


class Progress:
    """How far a batch is: a bar where somebody looks, one line at the end elsewhere. Bad rows are named.

    Args:
        counts: which others change.
        stream: where it is drawn.
    """

    def __init__(self, counts: Counts, stream: TextIO) -> None:
        self.counts, self.stream = counts, stream
        self._steer = stream.isatty()
        self._began, self._before = time.monotonic(), counts.completed + counts.failed
        self._drawn = -BETWEEN

    def told(self, row: Row | BadRow) -> None:
        """One more row has an answer."""
        if isinstance(row, BadRow):
            self._clear()
            self.stream.write(f"chatglm: line {row.number}: {row.why}\n")
        now = time.monotonic()
        if self._steer and now - self._drawn >= BETWEEN:
            self._drawn = now
            self._draw(now)

    def end(self) -> None:
        """The last word."""
        self._clear()
        counts = self.counts
        self.stream.write(f"chatglm: {counts.completed} of {counts.total} answered, {counts.failed} failed\n")
        self.stream.flush()

    def _draw(self, now: float) -> None:
        done, total = self.counts.completed + self.counts.failed, self.counts.total
        rate = (done - self._before) / max(now - self._began, 1e-9)
        left = (total - done) / rate if rate else 0.0
        full = WIDTH * min(done, total) // total
        bar = "#" * full + "." * (WIDTH - full)
        minutes, seconds = divmod(round(left), 60)
        self.stream.write(
            f"\r\x1b[K[{bar}] {done}/{total}, {self.counts.failed} failed, {rate:.1f}/s, {minutes}:{seconds:02} left"
        )
        self.stream.flush()

    def _clear(self) -> None:
        if self._steer:
            self.stream.write("\r\x1b[K")
