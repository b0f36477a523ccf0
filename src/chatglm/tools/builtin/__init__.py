"""Tools that come with the package: a calculator, the time, the weather, web pages, the files of a sandbox.

None of them reaches this machine's files or programs; there is no shell. Those that need something - web pages a list
of hosts, files a sandbox - are there only when it is given.
"""

from collections.abc import Callable, Iterable

from chatglm.errors import ToolError
from chatglm.tools.builtin.calculator import calculator
from chatglm.tools.builtin.clock import current_time
from chatglm.tools.builtin.files import FileStore, file_tools
from chatglm.tools.builtin.weather import make_weather
from chatglm.tools.builtin.web import make_web_fetch
from chatglm.tools.definition import Tool

__all__ = ["builtin_tools", "calculator", "current_time", "file_tools", "make_weather", "make_web_fetch"]

_ALWAYS: dict[str, Callable[[], Tool]] = {
    "calculator": lambda: calculator,
    "current_time": lambda: current_time,
    "weather": make_weather,
}
_FILES = ("list_files", "read_file", "write_file")


def builtin_tools(
    names: Iterable[str] | None = None, *, allow_hosts: Iterable[str] = (), sandbox: FileStore | None = None
) -> list[Tool]:
    """The tools with these names, in this order; unless given, all there are.

    Args:
        names: any of calculator, current_time, weather, web_fetch, list_files, read_file, write_file.
        allow_hosts: hosts `web_fetch` may ask, e.g. "docs.python.org", "*.wikipedia.org"; without them it is not there.
        sandbox: whose files the file tools read and write; without it they are not there.

    Raises:
        ToolError: an unknown name, or a tool without what it needs.
    """
    if isinstance(names, str):
        raise ToolError(f"names is the text {names!r}; it must be a list of names")
    hosts = list(allow_hosts)
    known = {name: make() for name, make in _ALWAYS.items()}
    if hosts:
        known["web_fetch"] = make_web_fetch(hosts)
    if sandbox is not None:
        known.update((found.name, found) for found in file_tools(sandbox))
    wanted = list(known) if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise ToolError(_missing(name, list(known)))
    return [known[name] for name in dict.fromkeys(wanted)]


def _missing(name: str, known: list[str]) -> str:
    if name == "web_fetch":
        return (
            "web_fetch needs a list of hosts it may ask: give allow_hosts=['docs.python.org'], or on the command line "
            "--tools web_fetch:docs.python.org"
        )
    if name in _FILES:
        return f"{name} needs the code interpreter's files: give sandbox=, or on the command line --code"
    return f"there is no built-in tool {name!r}; there are {', '.join(known)}"
