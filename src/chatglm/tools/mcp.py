"""Tools of Model Context Protocol servers, through the official client: started together, called from any thread.

The servers live on an event loop in a thread of their own. What they do wrong - not start, be slow, die, answer with
junk - becomes a note or the result of one call; it never ends the conversation.
"""

import asyncio
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from chatglm.chat.message import INTERPRETER
from chatglm.errors import MissingExtraError, ToolError
from chatglm.tools.definition import Tool
from chatglm.tools.mcp_config import ServerConfig, read_mcp_file
from chatglm.tools.mcp_server import McpServer
from chatglm.tools.schema import inlined

_Value = TypeVar("_Value")
_SIGNS = re.compile(r"[^\w.-]")  # what a tool's name must not hold


def load_mcp(
    path: str | Path, *, start_timeout: float = 30.0, call_timeout: float = 60.0, always_prefix: bool = False
) -> "McpServers":
    """The servers of an `mcpServers` file, to be used as a context manager, which starts and ends them.

    Args:
        path: the file; see `mcp_config.read_mcp_file`.
        start_timeout: seconds until a server must have said which tools it has.
        call_timeout: seconds one call may take, where the file does not say.
        always_prefix: name every tool `server__tool`, not only where two servers have tools of one name.

    Raises:
        ToolError: the file cannot be used.
        MissingExtraError: the package `mcp` is not installed.
    """
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise MissingExtraError("mcp", "mcp", "using tools of MCP servers") from None
    return McpServers(
        read_mcp_file(path), start_timeout=start_timeout, call_timeout=call_timeout, always_prefix=always_prefix
    )


class McpServers:
    """Running servers and their tools; see `load_mcp`.

    Attributes:
        notes: what people should know, in words: servers that did not start, tools that were renamed or left out.
    """

    def __init__(
        self,
        configs: Sequence[ServerConfig],
        *,
        start_timeout: float = 30.0,
        call_timeout: float = 60.0,
        always_prefix: bool = False,
    ) -> None:
        self.notes: list[str] = []
        self._configs, self._always_prefix = tuple(configs), always_prefix
        self._start_timeout, self._call_timeout = start_timeout, call_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._servers: list[McpServer] = []
        self._tools: list[Tool] = []

    def __enter__(self) -> "McpServers":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tools(self) -> list[Tool]:
        """The tools of all servers that started.

        Raises:
            ToolError: they were not started.
        """
        if self._loop is None:
            raise ToolError("the MCP servers are not running; use them in a with block, or start() them")
        return list(self._tools)

    def start(self) -> None:
        """Starts all servers at once. One that does not start is noted; if none does, that is an error.

        Raises:
            ToolError: no server started; says why for each.
        """
        if self._loop is not None:
            return
        logging.getLogger("mcp").addHandler(logging.NullHandler())  # its words on junk are for its own developers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcp servers", daemon=True)
        self._thread.start()
        try:
            found = self._wait(self._start_all())
        except BaseException:
            self.close()
            raise
        if self._configs and not self._servers:
            self.close()
            raise ToolError("; ".join(self.notes))
        self._tools = self._named(found)

    def close(self) -> None:
        """Ends all servers; calls that are still waiting fail."""
        if self._loop is None or self._thread is None:
            return
        self._wait(self._stop_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None
        self._servers, self._tools = [], []

    def _wait(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        """Has the event loop do it, from a thread that is not the loop's."""
        if self._loop is None:
            work.close()
            raise ToolError("the MCP servers were ended")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise ToolError("the MCP servers were ended") from None

    async def _start_all(self) -> list[tuple[McpServer, list[Any]]]:
        servers = [McpServer(config, self._start_timeout, self._call_timeout) for config in self._configs]
        self._servers = servers
        results = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
        found: list[tuple[McpServer, list[Any]]] = []
        for server, result in zip(servers, results, strict=True):
            if isinstance(result, ToolError):
                self.notes.append(str(result))
            elif isinstance(result, BaseException):
                raise result
            else:
                found.append((server, result))
        self._servers = [server for server, _ in found]
        return found

    async def _stop_all(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers))
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=5)

    def _named(self, found: list[tuple[McpServer, list[Any]]]) -> list[Tool]:
        """The tools under names that are theirs alone."""
        counts = Counter(described.name for _, tools in found for described in tools)
        named: dict[str, Tool] = {}
        for server, tools in found:
            for described in tools:
                name = described.name
                if self._always_prefix or counts[name] > 1 or name == INTERPRETER:
                    name = f"{_SIGNS.sub('_', server.name)}__{name}"
                    if not self._always_prefix:
                        self.notes.append(
                            f"the tool {described.name} of the MCP server {server.name!r} is named {name}"
                        )
                if name in named:
                    self.notes.append(f"a second tool {name} of the MCP server {server.name!r} is left out")
                    continue
                try:
                    named[name] = self._tool(server, described, name)
                except ToolError as error:
                    self.notes.append(f"a tool of the MCP server {server.name!r} is left out: {error}")
        return list(named.values())

    def _tool(self, server: McpServer, described: Any, name: str) -> Tool:
        description = (described.description or described.title or "").strip()
        hints = described.annotations
        return Tool.from_schema(
            {
                "name": name,
                "description": description or f"{described.name} of {server.name}",
                "parameters": _parameters(described.input_schema, name),
            },
            self._function(server, described.name),
            timeout=server.call_timeout + 2 * self._start_timeout,  # the server keeps its own times
            dangerous=bool(hints is not None and hints.destructive_hint),
        )

    def _function(self, server: McpServer, name: str) -> Callable[..., str]:
        def call(**arguments: Any) -> str:
            return self._wait(server.call(name, arguments))

        return call


def _parameters(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema without what a model need not read; one that contains itself stays as it is."""
    with suppress(ToolError):
        schema = inlined(schema, f"the parameters of the tool {name}")
    return {key: value for key, value in schema.items() if key != "$schema"}
