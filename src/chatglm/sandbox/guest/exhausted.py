"""What a guest has used up that the next cell may well need."""

import os
from _thread import start_new_thread

_ROOM = 8 << 20  # bytes
_FILES = 4  # an import has two open at a time


def exhausted() -> str:
    """What leaves no room for another cell: memory, files or processes; empty where there is room."""
    try:
        bytearray(_ROOM)
    except MemoryError:
        return "memory"
    opened: list[int] = []
    try:
        for _ in range(_FILES):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return "files"
    finally:
        for descriptor in opened:
            os.close(descriptor)
    try:
        start_new_thread(int, ())
    except RuntimeError:
        return "processes"
    return ""
