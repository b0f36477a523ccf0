"""Room on the disk, asked for before a long conversion begins rather than found missing at its end."""

import shutil
from pathlib import Path

from chatglm.errors import CheckpointError


def check_room(folder: Path, needed: int) -> None:
    """Raise CheckpointError unless `needed` bytes are free on the disk of an existing folder."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(f"the result takes {needed:,} bytes, and {free:,} are free on the disk of {folder}")
