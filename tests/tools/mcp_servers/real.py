"""A small server written with the official package: on standard input and output, or over HTTP at a given port."""

import asyncio
import os
import sys

from mcp.server.mcpserver import Image, MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel

server = MCPServer("real", log_level="CRITICAL")


class Place(BaseModel):
    city: str
    days: int = 1


@server.tool()
def add(first: int, second: int = 2) -> int:
    """Adds two numbers."""
    return first + second


@server.tool()
def plan(place: Place) -> dict:
    """Plans a journey."""
    return {"city": place.city, "days": place.days}


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
def picture() -> list:
    """Shows a picture."""
    return ["一张图：", Image(data=b"\x89PNG" * 3, format="png")]


@server.tool()
def fail(text: str) -> str:
    """Fails."""
    from mcp.server.mcpserver.exceptions import ToolError

    raise ToolError(text)


@server.tool()
async def wait(seconds: float) -> str:
    """Waits."""
    await asyncio.sleep(seconds)
    return "waited"


@server.tool()
def environment() -> list[str]:
    """Says the environment it was given."""
    return [os.environ.get("GIVEN", ""), os.environ.get("SECRET_OF_THE_HOST", ""), os.getcwd()]


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)


if len(sys.argv) > 1:
    server.run("streamable-http", port=int(sys.argv[1]))
else:
    server.run("stdio")
