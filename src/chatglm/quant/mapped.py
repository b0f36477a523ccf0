"""Giving back the memory of weights that are mapped from a file and no longer needed.

A page that was read stays with the process until the whole mapping goes, and that goes when its last tensor does.
"""

import ctypes
import mmap
from pathlib import Path

import torch
from torch import Tensor

_PAGEMAP = Path("/proc/self/pagemap")  # 8 bytes a page
_OF_FILE = 61  # the bit of a page that is still that of the file; the highest bit: it is in memory
_DONTNEED = 4


def release(tensor: Tensor) -> None:
    """Give back the pages of a tensor that are still those of a mapped file; whoever reads them gets them from the file
    again. Pages that hold anything else are left alone, so nothing can be lost. Does nothing where the system does not
    tell (other systems than Linux)."""
    size = mmap.PAGESIZE
    if tensor.device.type != "cpu" or tensor.nbytes < 2 * size or not tensor.is_contiguous():
        return
    first, last = -(-tensor.data_ptr() // size), (tensor.data_ptr() + tensor.nbytes) // size
    try:
        with _PAGEMAP.open("rb", buffering=0) as stream:
            stream.seek(8 * first)
            found = torch.frombuffer(bytearray(stream.read(8 * (last - first))), dtype=torch.int64)
        advise = ctypes.CDLL(None).madvise
    except (OSError, ValueError, TypeError, AttributeError):
        return
    clean = (found < 0) & ((found >> _OF_FILE) & 1).bool()
    for start, stop in _runs(clean):
        advise(ctypes.c_void_p((first + start) * size), ctypes.c_size_t((stop - start) * size), _DONTNEED)


def _runs(flags: Tensor) -> list[tuple[int, int]]:
    """Where runs of True begin and end."""
    edges = torch.diff(flags.int(), prepend=torch.zeros(1, dtype=torch.int32), append=torch.zeros(1, dtype=torch.int32))
    starts, stops = ((edges == way).nonzero().flatten().tolist() for way in (1, -1))
    return list(zip(starts, stops, strict=True))
