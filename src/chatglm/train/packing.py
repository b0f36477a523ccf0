"""Rows for the network: an example in each, or several behind each other that do not see one another, or pairs."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from chatglm.model.segments import runs, segment_attention
from chatglm.train.encoding import Example
from chatglm.train.store import Store

IGNORED = -100
_WINDOW = 2048  # examples that are laid into rows together: enough to fill them, few enough to keep an order by chance


class Rows(Dataset[list[Example]]):
    """One example in each row."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> list[Example]:
        return [self.store[index]]


class PackedRows(Rows):
    """Several examples in each row, together at most `length` tokens; the same for the same seed."""

    def __init__(self, store: Store, length: int, seed: int) -> None:
        super().__init__(store)
        order = list(range(len(store)))
        random.Random(seed).shuffle(order)
        self.rows = [
            row for start in range(0, len(order), _WINDOW) for row in _filled(store, order[start:][:_WINDOW], length)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Example]:
        return [self.store[one] for one in self.rows[index]]


class PairRows(Rows):
    """Two examples to compare in each item: the preferred one and the other one."""

    def __len__(self) -> int:
        return len(self.store) // 2

    def __getitem__(self, index: int) -> list[Example]:
        return [self.store[2 * index], self.store[2 * index + 1]]


def _filled(store: Store, window: Sequence[int], length: int) -> list[list[int]]:
    """The longest first, each into the first row that has room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for one in sorted(window, key=lambda one: -store.length(one)):
        needed = store.length(one)
        place = next((place for place, left in enumerate(room) if left >= needed), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(length)
        rows[place].append(one)
        room[place] -= needed
    return rows


class Collator:
    """Lays rows side by side: what the network is given, padded at the end to the longest row.

    Args:
        packed: rows hold several examples that do not see each other, and positions begin anew with each. The
            network is told by `runs` (`model.segments`), or by a 4-d mask where there is a prefix.
        prefix_length: of P-Tuning v2, whose rows every token sees; a 4-d mask has to say so.
        places: give `position_ids`; ChatGLM-6B makes its own from the ids.
    """

    def __init__(self, packed: bool, prefix_length: int = 0, places: bool = True) -> None:
        self.packed, self.prefix_length, self.places = packed, prefix_length, places

    def __call__(self, rows: Sequence[Sequence[Example]]) -> dict[str, Any]:
        length = max(sum(len(example.ids) for example in row) for row in rows)
        ids, labels, positions, segments = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(4))
        labels.fill_(IGNORED)
        for index, row in enumerate(rows):
            start = 0
            for number, example in enumerate(row, 1):
                end = start + len(example.ids)
                tokens, learned = torch.tensor(example.ids), torch.tensor(example.learned)
                ids[index, start:end] = tokens
                labels[index, start:end] = tokens.masked_fill(~learned, IGNORED)
                positions[index, start:end] = torch.arange(end - start)
                segments[index, start:end] = number
                start = end
        batch = {"input_ids": ids, "labels": labels, **self._sight(segments)}
        return batch | {"position_ids": positions} if self.places else batch

    def _sight(self, segments: Tensor) -> dict[str, Any]:
        """What tells the network which tokens see each other."""
        if not self.packed:
            return {"attention_mask": (segments > 0).long()}
        if self.prefix_length:
            return {"attention_mask": self._mask(segments)}
        return {"attention": segment_attention, "runs": runs(segments)}

    def _mask(self, segments: Tensor) -> Tensor:
        """Which tokens may see which: earlier ones of their own example; bool [rows, 1, tokens, prefix + tokens]."""
        same = segments[:, None, :, None] == segments[:, None, None, :]
        seen = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
        return torch.nn.functional.pad(seen, (self.prefix_length, 0), value=True)


class PairCollator(Collator):
    """Lays pairs side by side: first all preferred examples, then the others in the same order."""

    def __call__(self, rows: Sequence[Sequence[Example]]) -> dict[str, Any]:
        return super().__call__([[row[which]] for which in (0, 1) for row in rows])


class LabelCollator(Collator):
    """Lays texts side by side; `labels` holds the number of each row's label."""

    def __call__(self, rows: Sequence[Sequence[Example]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        return batch | {"labels": torch.tensor([row[0].label for row in rows])}
