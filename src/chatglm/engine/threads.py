"""How many threads torch may use, for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Have torch use `count` threads in the calling thread, and afterwards as many as before; None: leave it.

    With one, torch computes in place and wakes no pool: the thing to do for small tensors, and where another pool of
    threads computes, since torch's spin for a while after each region.
    """
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
