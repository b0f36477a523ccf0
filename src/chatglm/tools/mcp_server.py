"""One Model Context Protocol server: started, asked for its tools, called, and started again once when it dies.

Everything here runs on the event loop of `mcp.McpServers`. The official client must be entered and left in the same
task, so a task of its own keeps it open; calls come from other tasks.
"""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TextIO

from chatglm.errors import ToolError
from chatglm.tools.mcp_config import ServerConfig
from chatglm.tools.result_text import told, without_paths

_CLOSED = -32000  # the client's code for a connection that ended
_MAX_PAGES = 50
_MAX_TOOLS = 500
_STOP_SECONDS = 10.0
_SHOWN = 400  # characters of what a server wrote to its standard error


class McpServer:
    """A server and the client connected to it.

    Args:
        config: how to start or reach it.
        start_timeout: seconds until it must have said which tools it has.
        call_timeout: seconds one call may take, where the configuration does not say.
    """

    def __init__(self, config: ServerConfig, start_timeout: float, call_timeout: float) -> None:
        self.name = config.name
        self.call_timeout = config.call_timeout or call_timeout
        self._config, self._start_timeout = config, start_timeout
        self._client: Any = None
        self._life: asyncio.Task[None] | None = None
        self._end = asyncio.Event()
        self._starting = asyncio.Lock()
        self._may_restart = True
        self._messages: _LastLines | None = None

    async def start(self) -> list[Any]:
        """Connects, and gives its tools as the protocol describes them.

        Raises:
            ToolError: it cannot be started, or not in time; with the end of what it wrote.
        """
        ready: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._end = asyncio.Event()
        self._messages = _LastLines()
        self._life = asyncio.create_task(self._live(ready, self._messages))
        waited: set[asyncio.Future[Any]] = {ready, self._life}
        await asyncio.wait(waited, timeout=self._start_timeout, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and ready.exception() is None:
            return ready.result()
        why = f"it did not answer within {self._start_timeout:g} seconds"
        if ready.done():
            why = _reason(ready.exception())
        await self.stop()
        ready.cancel()
        wrote = self._messages.text()
        raise ToolError(
            f"the MCP server {self.name!r} did not start: {why}" + (f"; it wrote: {wrote}" if wrote else "")
        )

    async def stop(self) -> None:
        """Ends the connection and the process behind it."""
        self._end.set()
        life, client = self._life, self._client
        self._life = self._client = None
        if life is None:
            return
        # Without a client it is still starting, and nobody there looks for the end.
        done, _ = await asyncio.wait({life}, timeout=0 if client is None else _STOP_SECONDS)
        if not done:
            life.cancel()
            await asyncio.wait({life}, timeout=_STOP_SECONDS)

    async def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """The result of a call, as text.

        Raises:
            ToolError: the server says so, is dead, too slow, or answers with something that is no result.
        """
        await self._revive()
        life, client = self._life, self._client
        if life is None or client is None:
            raise ToolError(f"the MCP server {self.name!r} is not running")
        calling = asyncio.create_task(client.call_tool(tool, arguments, read_timeout_seconds=self.call_timeout))
        try:
            await asyncio.wait({calling, life}, timeout=self.call_timeout + 1, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done() and not life.done():
                raise ToolError(self._slow())
            if not calling.done():
                raise ToolError(await self._died())
            result = await self._result(calling)
        finally:
            calling.cancel()
        self._may_restart = True
        return _text(result)

    async def _result(self, calling: "asyncio.Task[Any]") -> Any:
        from mcp import MCPError

        try:
            return calling.result()
        except MCPError as error:
            if error.code == _CLOSED:
                raise ToolError(await self._died()) from None
            if "timed out" in error.message.lower():
                raise ToolError(self._slow()) from None
            words = without_paths(" ".join(error.message.split()))[:_SHOWN]
            raise ToolError(f"the MCP server {self.name!r} refused: {words}") from None
        except (Exception, asyncio.CancelledError) as error:
            raise ToolError(f"the MCP server {self.name!r} gave no usable answer: {told(error)}") from None

    def _slow(self) -> str:
        return f"the MCP server {self.name!r} gave no answer within {self.call_timeout:g} seconds"

    async def _died(self) -> str:
        """Clears away what is left of a server that died during a call. The call is not repeated: nobody knows how far
        it came."""
        await self.stop()
        again = "; it is started again for the next call" if self._may_restart else "; it is not started again"
        return f"the MCP server {self.name!r} died during the call{again}"

    async def _revive(self) -> None:
        """Starts a dead server again: once, and once more only after it has answered since."""
        async with self._starting:
            if self._life is not None and not self._life.done():
                return
            if not self._may_restart:
                raise ToolError(f"the MCP server {self.name!r} is dead; it was started again once and died again")
            self._may_restart = False
            await self.start()

    async def _live(self, ready: "asyncio.Future[list[Any]]", messages: "_LastLines") -> None:
        """Keeps the client open until the end is asked for, or the connection breaks."""
        try:
            async with _connected(self._config, messages.file) as client:
                messages.file.close()  # the server has its own copy
                tools = await _tools(client)
                self._client = client
                if not ready.done():
                    ready.set_result(tools)
                await self._end.wait()
        except BaseException as error:  # a group of exceptions is no `Exception`
            if not ready.done():
                ready.set_exception(ToolError(_reason(error)))
        finally:
            messages.file.close()


@asynccontextmanager
async def _connected(config: ServerConfig, messages: TextIO) -> AsyncIterator[Any]:
    """The official client, connected to the server."""
    from mcp import Client, StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    async with AsyncExitStack() as stack:
        if config.url:
            http_client = await stack.enter_async_context(create_mcp_http_client(headers=dict(config.headers)))
            transport = streamable_http_client(config.url, http_client=http_client)
        else:
            parameters = StdioServerParameters(
                command=config.command, args=list(config.args), env=dict(config.env), cwd=config.cwd
            )
            transport = stdio_client(parameters, errlog=messages)
        yield await stack.enter_async_context(Client(transport))


async def _tools(client: Any) -> list[Any]:
    found: list[Any] = []
    cursor = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if len(found) > _MAX_TOOLS:
            break
        if cursor is None:
            return found
    raise ToolError(f"it offers more than {_MAX_TOOLS} tools, or a list without an end")


def _reason(error: BaseException | None) -> str:
    """Why, in one line: of a group of exceptions the first that says something."""
    while error is not None and getattr(error, "exceptions", None):
        error = error.exceptions[0]  # type: ignore[attr-defined]
    if isinstance(error, FileNotFoundError):
        return f"there is no program {error.filename!r}"
    return "it ended" if error is None else told(error)


def _text(result: Any) -> str:
    """What a result says: its texts, and a word for everything that is no text."""
    parts = [_part(block) for block in result.content or ()]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = "\n".join(parts) or "(no result)"
    if result.is_error:
        raise ToolError(told(ToolError(text)))
    return text


def _part(block: Any) -> str:
    kind = getattr(block, "type", "")
    if kind == "text":
        return str(block.text)
    if kind in ("image", "audio"):
        return f"[{block.mime_type}, {len(block.data) * 3 // 4} bytes]"
    if kind == "resource_link":
        return f"[resource {block.uri}]"
    resource = getattr(block, "resource", None)
    text = getattr(resource, "text", None)
    return text if isinstance(text, str) else f"[resource {getattr(resource, 'uri', kind)}]"


class _LastLines:
    """A file a server writes its messages to; the last of them are kept, for when it does not start."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.file: TextIO = os.fdopen(writing, "w")
        self._kept = b""
        self._thread = threading.Thread(target=self._read, args=(reading,), name="mcp messages", daemon=True)
        self._thread.start()

    def _read(self, reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe, suppress(OSError):
            while chunk := pipe.read(4096):
                self._kept = (self._kept + chunk)[-4 * _SHOWN :]

    def text(self) -> str:
        """The end of what was written, in one line."""
        self._thread.join(timeout=0.5)
        words = " ".join(self._kept.decode("utf-8", "replace").split())
        return words if len(words) <= _SHOWN else "..." + words[-_SHOWN:]
