"""Where each request's tokens lie in the cache, as stretches and as tensors, kept up to date as its blocks change.

Block tables grow by one block every `block_size` tokens. So nothing is built anew for a token: each request has a row
in one tensor and a list of stretches, and only blocks that came since the last step are added to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from chatglm.engine.request import Request


@dataclass(slots=True)
class _Layout:
    row: int
    num_blocks: int = 0
    runs: list[slice] = field(default_factory=list)  # of slots, whole blocks


class Layouts:
    """The layouts of a runner's requests.

    `Request.num_laid_out` counts the blocks that are in here; the block manager lowers it when it takes blocks back.

    Args:
        block_size: tokens per block.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._layouts: WeakKeyDictionary[Request, _Layout] = WeakKeyDictionary()
        self._tables = torch.zeros(4, 16, dtype=torch.int32)
        self._free_rows = list(range(4))

    def runs(self, request: Request, length: int) -> tuple[slice, ...]:
        """The first `length` tokens of a request as stretches of slots."""
        layout = self._updated(request)
        runs, excess = layout.runs, layout.num_blocks * self.block_size - length
        end = len(runs)
        while excess >= runs[end - 1].stop - runs[end - 1].start:
            end -= 1
            excess -= runs[end].stop - runs[end].start
        last = runs[end - 1]
        return (*runs[: end - 1], slice(last.start, last.stop - excess))

    def tables(self, requests: Sequence[Request]) -> Tensor:
        """Block tables [R, W] int32 of some requests on the CPU; a view where one request is asked for."""
        layouts = [self._updated(request) for request in requests]
        width = max(layout.num_blocks for layout in layouts)
        rows = [layout.row for layout in layouts]
        if len(rows) == 1:
            return self._tables[rows[0] : rows[0] + 1, :width]
        return self._tables[:, :width].index_select(0, torch.tensor(rows))

    def slots(self, request: Request, first: int, stop: int) -> list[int]:
        """The slots of a request's tokens `first .. stop`."""
        size, table = self.block_size, request.block_table
        if stop - first == 1:
            return [table[first // size] * size + first % size]
        slots: list[int] = []
        for index in range(first // size, -(-stop // size)):
            shift = (table[index] - index) * size
            slots.extend(range(max(first, index * size) + shift, min(stop, (index + 1) * size) + shift))
        return slots

    def _updated(self, request: Request) -> _Layout:
        layout = self._layouts.get(request)
        if layout is None:
            layout = self._layouts[request] = _Layout(self._free_row())
        known, table = request.num_laid_out, request.block_table
        if known < layout.num_blocks:
            self._cut(layout, known)
        if known < len(table):
            self._add(layout, table[known:])
            request.num_laid_out = len(table)
        return layout

    def _cut(self, layout: _Layout, num_blocks: int) -> None:
        excess = (layout.num_blocks - num_blocks) * self.block_size
        while excess:
            run = layout.runs.pop()
            taken = min(excess, run.stop - run.start)
            if run.stop - taken > run.start:
                layout.runs.append(slice(run.start, run.stop - taken))
            excess -= taken
        layout.num_blocks = num_blocks

    def _add(self, layout: _Layout, blocks: Sequence[int]) -> None:
        size, runs = self.block_size, layout.runs
        for block in blocks:
            if runs and runs[-1].stop == block * size:
                runs[-1] = slice(runs[-1].start, (block + 1) * size)
            else:
                runs.append(slice(block * size, (block + 1) * size))
        first, layout.num_blocks = layout.num_blocks, layout.num_blocks + len(blocks)
        if layout.num_blocks > self._tables.shape[1]:
            self._grow(0, layout.num_blocks)
        self._tables[layout.row, first : layout.num_blocks] = torch.tensor(blocks, dtype=torch.int32)

    def _free_row(self) -> int:
        if not self._free_rows:
            for request in [request for request in self._layouts if not request.block_table]:
                request.num_laid_out = 0
                del self._layouts[request]
            used = {layout.row for layout in self._layouts.values()}
            self._free_rows = [row for row in range(self._tables.shape[0]) if row not in used]
        if not self._free_rows:
            self._free_rows = list(range(self._tables.shape[0], 2 * self._tables.shape[0]))
            self._grow(self._tables.shape[0], 0)
        return self._free_rows.pop()

    def _grow(self, more_rows: int, least_width: int) -> None:
        rows, width = self._tables.shape
        width = max(width, 1 << (least_width - 1).bit_length()) if least_width else width
        tables = torch.zeros(rows + more_rows, width, dtype=torch.int32)
        tables[: self._tables.shape[0], : self._tables.shape[1]] = self._tables
        self._tables = tables
