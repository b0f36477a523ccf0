"""The folder to write: room on its disk asked for before the work, no model written over, nothing left of a failure."""

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
def new_folder(target: Path, needed: int) -> Iterator[None]:
    """Make the folder, with room for `needed` bytes; if what is done inside fails, everything new goes again.

    Raises:
        CheckpointError: it cannot be made, the disk is too small, or something cannot be read or written.
    """
    with _told(target):
        made = [path for path in (target, *target.parents) if not path.exists()]
        make_folder(target)
        before = set(target.iterdir())
        try:
            check_room(target, needed)
            yield
        except BaseException:
            with suppress(OSError):
                for path in set(target.iterdir()) - before:
                    path.unlink()
                for path in made:
                    path.rmdir()
            raise


@contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{error.filename or target} cannot be read or written: {error.strerror}") from error
