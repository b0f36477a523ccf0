"""The folder to write: room on its disk asked for before the work, no model written over, nothing left of a failure."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chatglm.errors import CheckpointError
from chatglm.model.saving import make_folder
from chatglm.model.weights import INDEX_FILES, SINGLE_FILES


def check_room(folder: Path, needed: int) -> None:
    """Raise CheckpointError unless `needed` bytes are free on the disk of an existing folder."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(f"the result takes {needed:,} bytes, and {free:,} are free on the disk of {folder}")


def check_target(source: Path, target: Path) -> None:
    """Raise CheckpointError where a folder cannot be written to because it is the source, or holds a model."""
    if source.resolve() == target.resolve():
        raise CheckpointError(f"source and target are both {source}; give another folder to write to")
    with _told(target):
        taken = [name for name in ("config.json", *SINGLE_FILES, *INDEX_FILES) if (target / name).exists()]
    if taken:
        raise CheckpointError(f"{target} already holds a model ({', '.join(taken)}); give a new folder to write to")


@contextmanager
def new_folder(target: Path, needed: int) -> Iterator[Path]:
    """A place to write `needed` bytes to, whose files are in `target` afterwards; of a failure nothing stays.

    Raises:
        CheckpointError: the folder cannot be made, its disk is too small, or something cannot be read or written.
    """
    with _told(target):
        made = [path for path in (target, *target.parents) if not path.exists()]
        make_folder(target)
        part = target / f".part-{os.getpid()}"
        try:
            check_room(target, needed)
            part.mkdir()
            yield part
            for path in part.iterdir():
                os.replace(path, target / path.name)
            part.rmdir()
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            with suppress(OSError):
                for path in made:
                    path.rmdir()
            raise


@contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{error.filename or target} cannot be read or written: {error.strerror}") from error
