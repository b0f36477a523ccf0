"""Files a user brings into a conversation, told to the model in the official way."""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from chatglm.chat.message import FILES_FOLDER, Role
from chatglm.errors import SessionError

MAX_BYTES = 1 << 30  # of one file, which is read into memory; the sandbox has limits of its own, far below

Upload = str | os.PathLike[str] | tuple[str, bytes]  # a file of this machine, or a name and its content


def read_uploads(files: Sequence[Upload]) -> list[tuple[str, bytes]]:
    """The names and contents of files to upload.

    Raises:
        SessionError: one file or name is given twice, cannot be read, or has a name that cannot stand in a prompt.
    """
    if isinstance(files, (str, bytes, os.PathLike)):
        raise SessionError(f"files is {files!r}; it must be a list of files")
    found = [_read(file) for file in files]
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SessionError(f"two files to upload are named {twice!r}; their names must differ")
    return found


def uploaded_text(files: Iterable[tuple[str, int]], question: str) -> str:
    """The user's message after an upload: the official lines for every (name, size in bytes), then the question."""
    lines = [f"#File: {FILES_FOLDER}/{name}\n#Size: {size}\n#File uploaded\n" for name, size in files]
    return "".join(lines) + question


def check_upload_name(name: str) -> None:
    """Refuses a name that would leave the folder or its line in the prompt.

    Raises:
        SessionError: it is not one visible path component of at most 255 bytes.
    """
    plain = name not in ("", ".", "..") and name == name.strip() and "/" not in name and "\\" not in name
    marker = next((role.marker for role in Role if role.marker in name), None)
    if not plain or not name.isprintable() or marker or len(name.encode("utf-8", "replace")) > 255:
        raise SessionError(
            f"a file to upload is named {name!r}; the name must be one visible line without slashes, blanks around it "
            "or role markers, of at most 255 bytes"
        )


def _read(file: Upload) -> tuple[str, bytes]:
    if isinstance(file, tuple):
        return _read_pair(file)
    if not isinstance(file, (str, os.PathLike)):
        raise SessionError(f"a file to upload is {file!r}; it must be a path, or a name and its content as bytes")
    path = Path(os.fsdecode(file))
    check_upload_name(path.name)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a folder has no bytes, and a pipe or a device may have no end
            what = "a folder" if stat.S_ISDIR(about.st_mode) else "no regular file"
            raise SessionError(f"{str(path)!r} is {what} and cannot be uploaded; give a file")
        if about.st_size > MAX_BYTES:
            raise SessionError(f"{str(path)!r} has {about.st_size} bytes; a file to upload has at most {MAX_BYTES}")
        return path.name, path.read_bytes()
    except OSError as error:
        raise SessionError(f"the file {str(path)!r} cannot be uploaded: {error.strerror or error}") from None


def _read_pair(pair: tuple[Any, ...]) -> tuple[str, bytes]:
    if len(pair) != 2 or not isinstance(pair[0], str):
        raise SessionError(f"a file to upload is a tuple of {len(pair)} values; it must be a name and its content")
    name, content = pair
    check_upload_name(name)
    if not isinstance(content, bytes):
        raise SessionError(f"the content of {name!r} is a {type(content).__name__}; it must be bytes")
    return name, content
