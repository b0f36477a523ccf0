"""The `mcpServers` file other programs use too: which servers there are and how each is started or reached."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatglm.errors import ToolError

# What other programs keep in the same file and what changes nothing here: this program asks before dangerous tools by
# its own rules.
_OF_OTHERS = frozenset(["description", "name", "alwaysAllow", "autoApprove", "trust", "$schema"])
_KEYS = {
    "stdio": frozenset(["command", "args", "env", "cwd"]),
    "http": frozenset(["url", "headers"]),
}
_COMMON = frozenset(["type", "transport", "disabled", "enabled", "timeout"])
_KINDS = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamableHttp": "http",
}
_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class ServerConfig:
    """One server: a command to start and talk to over its standard input and output, or an address."""

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    cwd: str | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    call_timeout: float | None = None  # seconds


def read_mcp_file(path: str | Path) -> list[ServerConfig]:
    """The servers of an `mcpServers` file that are not disabled.

    `${NAME}` and `${NAME:-default}` in its texts stand for environment variables. `timeout` is in seconds. A relative
    `cwd` counts from the folder of the file.

    Raises:
        ToolError: no such file, no such form, an unknown key, a variable that is not set.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ToolError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ToolError(f"{path} is not JSON: {error}") from None
    servers = data.get("mcpServers") if isinstance(data, dict) else None
    if not isinstance(servers, dict):
        raise ToolError(f'{path} has no object "mcpServers"; it must look like {{"mcpServers": {{"name": {{...}}}}}}')
    found = [_server(name, item, f"the server {name!r} in {path}", path.parent) for name, item in servers.items()]
    return [server for server in found if server is not None]


def _server(name: str, item: Any, where: str, folder: Path) -> ServerConfig | None:
    if not isinstance(item, dict):
        raise ToolError(f"{where} is {item!r}; it must be an object")
    kind = _kind(item, where)
    unknown = sorted(set(item) - _KEYS[kind] - _COMMON - _OF_OTHERS)
    if unknown:
        known = ", ".join(sorted(_KEYS[kind] | _COMMON))
        raise ToolError(f"{where} has the key {unknown[0]!r}, which is not known; known are {known}")
    if item.get("disabled") is True or item.get("enabled") is False:
        return None
    timeout = item.get("timeout")
    if timeout is not None and (not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or timeout <= 0):
        raise ToolError(f"the timeout of {where} is {timeout!r}; it must be a number of seconds above 0")
    if kind == "http":
        headers = _texts(item.get("headers", {}), f"headers of {where}")
        return ServerConfig(name, url=_url(item["url"], where), headers=headers, call_timeout=timeout)
    args = item.get("args", [])
    if not isinstance(args, list):
        raise ToolError(f"args of {where} is {args!r}; it must be a list of texts")
    cwd = item.get("cwd")
    return ServerConfig(
        name,
        _text(item["command"], f"command of {where}"),
        tuple(_text(value, f"args of {where}") for value in args),
        _texts(item.get("env", {}), f"env of {where}"),
        None if cwd is None else str(folder / os.path.expanduser(_text(cwd, f"cwd of {where}"))),
        call_timeout=timeout,
    )


def _kind(item: dict[str, Any], where: str) -> str:
    said = item.get("type", item.get("transport"))
    if said is not None and said not in _KINDS:
        raise ToolError(f"the type of {where} is {said!r}; it must be 'stdio' or 'http' (streamable HTTP)")
    kind = _KINDS[said] if said is not None else "http" if "url" in item else "stdio"
    needed = "url" if kind == "http" else "command"
    if needed not in item:
        raise ToolError(f"{where} has no {needed!r}; a server has a command to start it, or the url where it is")
    return kind


def _url(value: Any, where: str) -> str:
    url = _text(value, f"url of {where}")
    if not url.startswith(("http://", "https://")):
        raise ToolError(f"url of {where} is {url!r}; it must begin with http:// or https://")
    return url


def _texts(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ToolError(f"{where} is {value!r}; it must be an object of texts")
    return {name: _text(item, f"{name} in {where}") for name, item in value.items()}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ToolError(f"{where} is {value!r}; it must be a text")

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise ToolError(f"{where} needs the environment variable {match[1]}, which is not set")
        return found

    return _VARIABLE.sub(variable, value)
