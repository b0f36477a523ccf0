"""Copies of a guest's files, for the guest that follows it when it has to be killed."""

from collections.abc import Iterator

from chatglm.errors import SandboxError

from .config import WORK
from .guest_handle import Files
from .result import FileInfo


class KeptFiles:
    """What changed under /mnt/data, and copies of it up to a size.

    Args:
        limit: bytes of all copies together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, FileInfo] = {}
        self._copies: dict[str, bytes] = {}
        self._size = 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(list(self._copies.items()))

    @property
    def whole(self) -> bool:
        """Whether there is a copy of every file."""
        return self._known.keys() == self._copies.keys()

    def forget_state(self) -> None:
        """A fresh guest follows: nothing is known about its files yet."""
        self._known = {}

    def look(self, files: Files) -> tuple[list[FileInfo], list[str]]:
        """New and changed files since the last look, and notices about what could not be listed or copied."""
        found, left_out = files.list()
        notices = [f"{left_out} entries of {WORK} are not listed: no regular files, or unusable names"] * bool(left_out)
        changed = [file for file in found if self._known.get(file.name) != file]
        self._known = {file.name: file for file in found}
        for name in self._copies.keys() - self._known.keys():
            self._forget(name)
        uncopied = [file.name for file in changed if not self._copy(files, file)]
        if uncopied:
            notices.append(
                f"too large or unreadable, and not kept if the interpreter has to restart: {', '.join(uncopied[:5])}"
            )
        return changed, notices

    def _copy(self, files: Files, file: FileInfo) -> bool:
        self._forget(file.name)
        if self._size + file.size > self._limit:
            return False
        try:
            data = files.get(file.name)
        except (OSError, SandboxError):  # unreadable, or larger than what may be fetched: the notice names it
            return False
        self._copies[file.name] = data
        self._size += len(data)
        return True

    def _forget(self, name: str) -> None:
        self._size -= len(self._copies.pop(name, b""))
