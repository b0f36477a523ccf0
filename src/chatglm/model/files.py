"""The small files of a folder: JSON read and written. And what git-lfs may have left in place of any file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatglm.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file cannot be read, is a git-lfs pointer, is not valid JSON or holds something else; names
        it.
    """
    try:
        refuse_pointer(path)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; it must be an object {{...}}")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object, indented and in the characters it is made of."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_pointer(file: Path) -> None:
    """Raise CheckpointError, naming the file, where it is a git-lfs pointer. OSError where it cannot be opened."""
    with file.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{file} is a git-lfs pointer of {file.stat().st_size} bytes, not the file itself; "
            "run `git lfs pull` in that folder, or download it from the hub"
        )
