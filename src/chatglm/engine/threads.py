"""How many threads may compute during a step: torch's, and those of the native kernels. Afterwards all is as before.

Two pools on the same cores are in each other's way: torch's threads stay awake for milliseconds after every parallel
operation, and the native kernels then find half their cores taken (measured: their part of a step takes 1.5 times as
long). So torch computes with one thread wherever the large products are not its own.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from chatglm import native


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Have torch use `count` threads in the calling thread, and afterwards as many as before; None: leave it.

    With one, torch computes in place and wakes no pool: the thing to do for small tensors.
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


class _NativeThreads:
    """The bounds on the native kernels' threads that hold now. Their number is the process's, so where several steps
    run at once the smallest bound counts, and the last one to end restores what was there before the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bounds: list[int] = []
        self._before = 0

    @contextmanager
    def bound(self, count: int) -> Iterator[None]:
        self._enter(count)
        try:
            yield
        finally:
            self._leave(count)

    def _enter(self, count: int) -> None:
        with self._lock:
            if not self._bounds:
                self._before = native.num_threads()
            self._bounds.append(count)
            self._apply()

    def _leave(self, count: int) -> None:
        with self._lock:
            self._bounds.remove(count)
            self._apply()

    def _apply(self) -> None:
        wanted = min(self._bounds, default=self._before)
        if native.num_threads() != wanted:
            native.set_num_threads(wanted)


_native_threads = _NativeThreads()


@contextmanager
def step_threads(count: int | None, native_products: bool) -> Iterator[None]:
    """The threads of a step: `count` of the native kernels (None: as many as they have), and as many of torch, which
    is left one where the large products are not its own."""
    with torch_threads(1 if native_products else count):
        if count is None or not native.available():
            yield
            return
        with _native_threads.bound(count):
            yield


def products_are_native(model: Any) -> bool:
    """Whether the native kernels compute all linears of a network, so that torch has no large product to share out."""
    if model.device.type != "cpu" or not native.available():
        return False
    linears = [module for module in model.modules() if hasattr(module, "in_features")]
    return bool(linears) and all(
        hasattr(linear, "packed_values") and not getattr(linear, "precise", False) for linear in linears
    )
