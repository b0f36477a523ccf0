"""Files that git-lfs left as pointers: a clone without `git lfs pull` has them in place of every large file."""

from pathlib import Path

from chatglm.errors import CheckpointError


def refuse_pointer(file: Path) -> None:
    """Raise CheckpointError, naming the file, where it is a git-lfs pointer. OSError where it cannot be opened."""
    with file.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{file} is a git-lfs pointer of {file.stat().st_size} bytes, not the file itself; "
            "run `git lfs pull` in that folder, or download it from the hub"
        )
