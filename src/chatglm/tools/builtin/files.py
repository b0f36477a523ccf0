"""Tools for the files of a sandbox. They never touch the files of this machine."""

from typing import Annotated, Any, Protocol

from chatglm.chat.message import FILES_FOLDER
from chatglm.errors import ToolError
from chatglm.tools.definition import Tool, tool

_MAX_BYTES = 4_000_000


class FileStore(Protocol):
    """What is needed of a sandbox."""

    def put(self, name: str, data: bytes, /) -> Any:
        """Writes a file."""

    def get(self, name: str, /) -> bytes:
        """Reads a file."""

    def list(self) -> Any:
        """Its files."""


def file_tools(sandbox: FileStore) -> list[Tool]:
    """`list_files`, `read_file` and `write_file` for the folder /mnt/data of a sandbox."""

    @tool
    def list_files() -> str:
        """Lists the files in /mnt/data."""
        names = [_listed(entry) for entry in sandbox.list()]
        return "\n".join(names) if names else "There are no files."

    @tool
    def read_file(
        name: Annotated[str, "name of the file in /mnt/data"],
        start: Annotated[int, "number of the first line, from 1"] = 1,
    ) -> str:
        """Reads a text file in /mnt/data."""
        if start < 1:
            raise ToolError(f"start is {start}; lines are counted from 1")
        data = sandbox.get(_inside(name))
        try:
            lines = bytes(data).decode("utf-8-sig").splitlines(keepends=True)
        except UnicodeDecodeError:
            raise ToolError(f"{name!r} is no text file; it has {len(data)} bytes. Read it with code") from None
        if lines and start > len(lines):
            raise ToolError(f"start is {start}, but {name!r} has {len(lines)} lines")
        return "".join(lines[start - 1 :]) or "(the file is empty)"

    @tool
    def write_file(
        name: Annotated[str, "name of the file in /mnt/data"],
        text: Annotated[str, "the whole text of the file"],
    ) -> str:
        """Writes a text file into /mnt/data; one of the same name is replaced."""
        data = text.encode("utf-8")
        if len(data) > _MAX_BYTES:
            raise ToolError(f"the text has {len(data)} bytes; at most {_MAX_BYTES} are written")
        sandbox.put(_inside(name), data)
        return f"{FILES_FOLDER}/{_inside(name)} has {len(data)} bytes now."

    return [list_files, read_file, write_file]


def _listed(entry: Any) -> str:
    """A file in a list: with its size where the sandbox says it."""
    name = entry if isinstance(entry, str) else getattr(entry, "name", str(entry))
    size = getattr(entry, "size", None)
    return f"{name} ({size} bytes)" if isinstance(size, int) else str(name)


def _inside(name: str) -> str:
    """The name without its folder. What else is wrong with a name the sandbox says."""
    inside = name.strip().removeprefix(f"{FILES_FOLDER}/")
    if not inside or inside.startswith(("/", "\\")) or ".." in inside.replace("\\", "/").split("/") or "\0" in inside:
        raise ToolError(f"the file name is {name[:80]!r}; it must be the name of a file in {FILES_FOLDER}/")
    return inside
