"""ROOM a function, a built-in, an MCP server or a foreign schema as a tool: checking, running, results.

Nothing is loaded with the room; each public name is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatglm.tools.builtin import builtin_tools
    from chatglm.tools.builtin.calculator import calculator
    from chatglm.tools.builtin.clock import current_time
    from chatglm.tools.builtin.files import file_tools
    from chatglm.tools.builtin.weather import make_weather
    from chatglm.tools.builtin.web import make_web_fetch
    from chatglm.tools.definition import Tool, tool
    from chatglm.tools.from_file import load_tools, named
    from chatglm.tools.mcp import load_mcp
    from chatglm.tools.toolbox import ToolBox, ToolResult

# public name -> the module it lives in; no module has one of these names
_HOMES = {
    "Tool": "definition",
    "ToolBox": "toolbox",
    "ToolResult": "toolbox",
    "builtin_tools": "builtin",
    "calculator": "builtin.calculator",
    "current_time": "builtin.clock",
    "file_tools": "builtin.files",
    "load_mcp": "mcp",
    "load_tools": "from_file",
    "make_weather": "builtin.weather",
    "make_web_fetch": "builtin.web",
    "named": "from_file",
    "tool": "definition",
}

__all__ = [
    "Tool",
    "ToolBox",
    "ToolResult",
    "builtin_tools",
    "calculator",
    "current_time",
    "file_tools",
    "load_mcp",
    "load_tools",
    "make_weather",
    "make_web_fetch",
    "named",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chatglm.tools' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"chatglm.tools.{_HOMES[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value
