"""Examples on disk, so that data larger than memory can be drawn in any order; memory holds where each one ends."""

import mmap
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.utils.data import Dataset

from chatglm.train.encoding import Example

_FLUSH = 1 << 20  # ids that are held before they are written


class Store(Dataset[Example]):
    """Examples by number. A token that is learned is stored as its id, another one as its complement.

    Args:
        found: what to hold.
        folder: on whose disk; the file has no name and is gone with the store.
    """

    def __init__(self, found: Iterable[Example], folder: Path) -> None:
        self._ends, self._labels = array("q"), array("q")
        with tempfile.TemporaryFile(dir=folder) as file:
            pending, total = array("i"), 0
            for example in found:
                tokens = zip(example.ids, example.learned, strict=True)
                pending.extend(token if learned else ~token for token, learned in tokens)
                total += len(example.ids)
                self._ends.append(total)
                if example.label is not None:
                    self._labels.append(example.label)
                if len(pending) > _FLUSH:
                    file.write(pending.tobytes())
                    pending = array("i")
            file.write(pending.tobytes())
            file.flush()
            # Private, because torch wants to be able to write; nobody does. The mapping outlives the file.
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if total else None
        self._ids = torch.empty(0, dtype=torch.int32) if held is None else torch.frombuffer(held, dtype=torch.int32)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Example:
        stored = self._ids[self._start(index) : self._ends[index]]
        label = self._labels[index] if self._labels else None
        return Example(torch.where(stored < 0, ~stored, stored).tolist(), (stored >= 0).tolist(), label)

    def length(self, index: int) -> int:
        """Tokens of an example."""
        return self._ends[index] - self._start(index)

    @property
    def num_tokens(self) -> int:
        """Of all examples."""
        return self._ends[-1] if self._ends else 0

    def _start(self, index: int) -> int:
        return self._ends[index - 1] if index else 0
