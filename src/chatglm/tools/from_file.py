"""Tools by name, as a command line gives them: built-in ones, and those of files of the user's own."""

import atexit
import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from chatglm.errors import ToolError
from chatglm.tools.definition import Tool
from chatglm.tools.result_text import told


def named(names: str | Iterable[str], *, sandbox: Any = None) -> list[Tool]:
    """The tools that names stand for, in this order.

    Args:
        names: texts with names between commas: a built-in tool (`calculator`; `web_fetch:docs.python.org` with a host
            it may ask), a file as `load_tools` takes it, or one tool of a Python file (`my_tools.py:lookup`).
        sandbox: whose files the built-in file tools read and write.

    Raises:
        ToolError: a name that stands for nothing, a file without tools, two tools of one name.
        MissingExtraError: a `.json` file without the package `mcp`.
    """
    texts = [names] if isinstance(names, str) else list(names)
    parts = [part.strip() for text in texts for part in ([text] if os.path.exists(text) else text.split(","))]
    hosts = [part.partition(":")[2] for part in parts if part.startswith("web_fetch:")]
    found: dict[str, Tool] = {}
    for part in dict.fromkeys("web_fetch" if part.startswith("web_fetch:") else part for part in parts if part):
        for made in _of(part, [host for host in hosts if host], sandbox):
            if found.setdefault(made.name, made) is not made:
                raise ToolError(f"two tools have the name {made.name!r}, the second from {part!r}; leave one out")
    return list(found.values())


def _of(part: str, hosts: list[str], sandbox: Any) -> list[Tool]:
    """The tools one name stands for."""
    one = re.fullmatch(r"(.+\.(?:py|json)):([\w.-]+)", part)
    if one and not os.path.exists(part):
        tools = load_tools(one[1])
        chosen = [tool for tool in tools if tool.name == one[2]]
        if not chosen:
            raise ToolError(f"{one[1]!r} has no tool {one[2]!r}{_near(one[2], [tool.name for tool in tools])}")
        return chosen
    if Path(part).suffix in (".py", ".json") or os.path.exists(part):
        return load_tools(part)
    from chatglm.tools.builtin import builtin_tools

    return builtin_tools([part], allow_hosts=hosts, sandbox=sandbox)


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (f"; did you mean {near[0]}?" if near else "") + f"; it has {', '.join(known)}"


def load_tools(path: str | Path) -> list[Tool]:
    """The tools of a file.

    A `.py` file is run, with the rights of this program: it must be one's own. It may import files beside it. Its tools
    are the `Tool` objects among its names, in the order they were made, imported ones too. The servers of a `.json`
    file are started, and ended with the program; `load_mcp` gives more control over them, and what went wrong with
    each.

    Raises:
        ToolError: no such file, an error while it was run, no tools in it, two of one name.
        MissingExtraError: a `.json` file without the package `mcp`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ToolError(f"there is no file {str(path)!r}; tools come from a .py file or an mcp.json")
    if path.suffix == ".json":
        return _from_mcp(path)
    if path.suffix != ".py":
        raise ToolError(f"{str(path)!r} is neither a .py file with tools nor a .json file with mcpServers")
    return _from_python(path)


def _from_mcp(path: Path) -> list[Tool]:
    from chatglm.tools.mcp import load_mcp

    servers = load_mcp(path)
    servers.start()
    atexit.register(servers.close)
    for note in servers.notes:
        sys.stderr.write(f"chatglm: {note}\n")
    return servers.tools()


class _AsItIs(SourceFileLoader):
    """Compiles the file each time. A compiled form left beside it would be taken for it by second and length alone."""

    def get_code(self, fullname: str) -> CodeType:
        file = self.get_filename(fullname)
        return self.source_to_code(self.get_data(file), file)


def _from_python(path: Path) -> list[Tool]:
    name = f"chatglm_tools_{path.stem}"
    loader = _AsItIs(name, str(path.resolve()))
    spec = importlib.util.spec_from_file_location(name, path.resolve(), loader=loader)
    if spec is None or spec.loader is None:
        raise ToolError(f"{str(path)!r} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and annotations look their module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: a file beside it must not stand in for a module of this program
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ToolError(f"{str(path)!r} cannot be run: {_place(error, path)}{told(error)}") from error
    found = list(dict.fromkeys(value for value in vars(module).values() if isinstance(value, Tool)))
    if not found:
        raise ToolError(f"{str(path)!r} has no tools; mark functions with @tool from chatglm.tools")
    names = [tool.name for tool in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ToolError(f"{str(path)!r} has two tools named {twice!r}; give one of them another name")
    return found


def _place(error: BaseException, path: Path) -> str:
    """The line of the file an error comes from."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f"line {line}: "
