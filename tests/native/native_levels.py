"""For the tests of the kernels: the instruction sets of this processor, and a way to use one for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chatglm import native

LEVELS = native.levels() if native.available() else []
needs_kernels = pytest.mark.skipif(not native.available(), reason=f"no native kernels: {native.why_not()}")


@contextmanager
def using(level: str) -> Iterator[None]:
    before = native.level()
    native.use_level(level)
    try:
        yield
    finally:
        native.use_level(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = native.num_threads()
    native.set_num_threads(count)
    try:
        yield
    finally:
        native.set_num_threads(before)
