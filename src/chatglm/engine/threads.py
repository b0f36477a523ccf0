"""How many threads may compute: torch's during a step, the native kernels' while there is work. Then all is as before.

Two pools on the same cores are in each other's way: torch's threads stay awake for milliseconds after every parallel
operation, and the native kernels then find half their cores taken (measured: their part of a step takes 1.5 times as
long). So torch computes with one thread wherever the large products are not its own.
"""

import threading
import weakref
from typing import Any

import torch

from chatglm import native


class torch_threads:  # a context manager, called like a function
    """Have torch use `count` threads in the calling thread, and afterwards as many as before; None: leave it.

    With one, torch computes in place and wakes no pool: the thing to do for small tensors.
    """

    def __init__(self, count: int | None) -> None:
        self.count, self.before = count, 0

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        if self.count is not None and self.count != self.before:
            torch.set_num_threads(self.count)

    def __exit__(self, *_: object) -> None:
        if self.count is not None and self.count != self.before:
            torch.set_num_threads(self.before)


class _NativeThreads:
    """The bounds on the native kernels' threads that hold now. Their number is the process's, so where several engines
    work at once the smallest bound counts, and the last one to end restores what was there before the first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # an engine may be collected while this thread is in here
        self._bounds: list[int] = []
        self._before = 0

    def enter(self, count: int) -> None:
        with self._lock:
            if not self._bounds:
                self._before = native.num_threads()
            self._bounds.append(count)
            self._apply()

    def leave(self, count: int) -> None:
        with self._lock:
            self._bounds.remove(count)
            self._apply()

    def _apply(self) -> None:
        wanted = min(self._bounds, default=self._before)
        if native.num_threads() != wanted:
            native.set_num_threads(wanted)


_native_threads = _NativeThreads()


class StepThreads:
    """The threads of an engine's steps.

    The kernels keep their number from the first step until there is no work left, since changing it takes them a
    millisecond; torch has its own for the length of a step.

    Args:
        count: of the native kernels (None: as many as they have), and of torch.
        native_products: the large products are not torch's own, so that it is left one thread.
    """

    def __init__(self, count: int | None, native_products: bool) -> None:
        self.count, self.of_torch = count, 1 if native_products else count
        self._bound: weakref.finalize[..., Any] | None = None

    def __call__(self) -> torch_threads:
        """What to take a step in."""
        if self.count is not None and self._bound is None and native.available():
            _native_threads.enter(self.count)
            self._bound = weakref.finalize(self, _native_threads.leave, self.count)
            self._bound.atexit = False
        return torch_threads(self.of_torch)

    def rest(self) -> None:
        """There is no work left: the kernels have as many threads as before."""
        if self._bound is not None:
            self._bound()
            self._bound = None


def products_are_native(model: Any) -> bool:
    """Whether the native kernels compute all linears of a network, so that torch has no large product to share out."""
    if model.device.type != "cpu" or not native.available():
        return False
    linears = [module for module in model.modules() if hasattr(module, "in_features")]
    return bool(linears) and all(
        hasattr(linear, "packed_values") and not getattr(linear, "precise", False) for linear in linears
    )
