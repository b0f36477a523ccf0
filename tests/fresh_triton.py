"""A Triton of its own for a while, since it decides when it is imported whether it compiles or interprets."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def fresh_triton(interpreted: bool) -> Iterator[pytest.MonkeyPatch]:
    """What was imported before comes back afterwards, and nothing else stays: not even parts that were not there."""
    before, number = _take(), len(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
            yield patch
        finally:
            # Kept until the end under another name: Triton's C++ part complains about what it finds alive then.
            sys.modules.update({f"{number}:{name}": used for name, used in _take().items()})
            sys.modules.update(before)


def _take() -> dict[str, Any]:
    """Forget what is imported of Triton, all but the parts in C++, which can only be loaded once."""
    names = [name for name in sys.modules if name.split(".")[0] == "triton" and "._C" not in name]
    return {name: sys.modules.pop(name) for name in names}
