"""Decode steps with fixed shapes: buffers that stay where they are, padded batch sizes, recorded as CUDA graphs.

A step of a 6B network is some five hundred kernels. Started one by one from Python they take longer than they run; a
recorded step is started with one call, but always on the same memory and with the same shapes. So a batch is padded to
the next of a few sizes. Padding rows have length 0 and write into a slot that is nobody's.

Legend: n requests of a step, M the most there can be, W blocks of the longest table there can be.
"""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from chatglm.engine.cache import PagedBatch

Forward = Callable[[Tensor, Tensor, PagedBatch], Tensor]  # ids [1, n], positions [1, n], batch -> logits [n, vocab]


class Graph(Protocol):
    """A recorded step."""

    def replay(self) -> Tensor:
        """Run it on what the buffers hold now; the logits, overwritten by the next replay."""


class CudaGraphs:
    """Records steps of one engine: they share a pool of memory, since only one of them runs at a time. The steps of
    another engine may run meanwhile, and have theirs."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> "CudaGraph":
        graph = CudaGraph(run, self._pool)
        self._pool = graph.graph.pool()
        return graph


class CudaGraph:
    """A step recorded by CUDA, in a pool of memory or, with None, in a new one."""

    def __init__(self, run: Callable[[], Tensor], pool: Any = None) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries and kernels set themselves up; that cannot be recorded
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile; by default that would spoil the recording.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.output = run()

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.output


def padded_sizes(most: int) -> list[int]:
    """1, 2, 4, 8, then every eighth up to 64, then every 32nd; the last one is `most`."""
    sizes = [1, 2, 4, *range(8, min(most, 64), 8), *range(64, most, 32)]
    return [*(size for size in sizes if size < most), most]


class StaticDecoder:
    """Runs steps of one token for each of up to M requests.

    Args:
        forward: the network.
        batch: any batch of the runner; cache, block size and prefix are taken from it.
        most_requests: M.
        most_blocks: W.
        record: makes a `Graph` of a step; None: steps run as they are (padded all the same).
        compiled: `forward` is compiled, so that the width of the tables must not change either.
    """

    def __init__(
        self,
        forward: Forward,
        batch: PagedBatch,
        most_requests: int,
        most_blocks: int,
        record: Callable[[Callable[[], Tensor]], Graph] | None,
        compiled: bool = False,
    ) -> None:
        self.forward, self.record, self.model_batch = forward, record, batch
        self.compiled = compiled
        self.sizes = padded_sizes(most_requests)
        device = batch.cache.states.device
        self.ids = torch.zeros(1, most_requests, dtype=torch.long, device=device)
        self.positions = torch.zeros_like(self.ids)
        self.slots = torch.full((most_requests,), batch.cache.num_slots, dtype=torch.long, device=device)
        self.lengths = torch.zeros(most_requests, dtype=torch.int32, device=device)
        self.starts = torch.arange(most_requests + 1, dtype=torch.int32, device=device)
        self.tables = torch.zeros(most_requests, most_blocks, dtype=torch.int32, device=device)
        self.graphs: dict[int, Graph] = {}
        self.num_replays = 0

    def run(self, ids: Tensor, positions: Tensor, batch: PagedBatch) -> Tensor:
        """`ids` and `positions` [n] of n requests, one new token each -> logits [n, vocab].

        The logits are valid until the next call. An id below 0 (no token could be chosen) is run as 0.
        """
        count = ids.shape[0]
        size = next(size for size in self.sizes if size >= count)
        self._fill(ids, positions, batch, count, size)
        if self.record is not None and size not in self.graphs:
            self._record(size)
        graph = self.graphs.get(size)
        if graph is None:
            width = self.tables.shape[1] if self.compiled else batch.block_tables.shape[1]
            return self._step(size, width)[:count]
        self.num_replays += 1
        return graph.replay()[:count]

    def warm_up(self) -> None:
        """Record (or run) a step of padding rows of every size, the largest first: the others find its memory there."""
        for size in reversed(self.sizes):
            self.slots[:size].fill_(self.model_batch.cache.num_slots)
            self.lengths[:size].zero_()
            self.positions[:, :size].zero_()
            if self.record is not None and size not in self.graphs:
                self._record(size)
            if size not in self.graphs:
                self._step(size, self.tables.shape[1] if self.compiled else 1)

    def _fill(self, ids: Tensor, positions: Tensor, batch: PagedBatch, count: int, size: int) -> None:
        width = batch.block_tables.shape[1]
        torch.clamp(ids, min=0, out=self.ids[0, :count])
        self.positions[0, :count].copy_(positions)
        self.slots[:count].copy_(batch.slots)
        self.lengths[:count].copy_(batch.lengths)
        self.tables[:count, :width].copy_(batch.block_tables)
        if size > count:
            self.slots[count:size].fill_(batch.cache.num_slots)
            self.lengths[count:size].zero_()

    def _step(self, size: int, width: int) -> Tensor:
        model_batch = self.model_batch
        batch = PagedBatch(
            cache=model_batch.cache,
            slots=self.slots[:size],
            sequences=(),
            block_tables=self.tables[:size, :width],
            lengths=self.lengths[:size],
            query_starts=self.starts[: size + 1],
            block_size=model_batch.block_size,
            prefix=model_batch.prefix,
            static=True,
        )
        return self.forward(self.ids[:, :size], self.positions[:, :size], batch)

    def _record(self, size: int) -> None:
        assert self.record is not None
        try:
            self.graphs[size] = self.record(lambda: self._step(size, self.tables.shape[1]))
        except Exception as error:  # a step that cannot be recorded can still be run
            warnings.warn(f"decode steps are run without CUDA graphs, recording one failed: {error!r}", stacklevel=2)
            self.record = None
