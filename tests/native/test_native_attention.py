"""Paged attention of the kernels against the engine's readable reference."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_levels import LEVELS, needs_kernels, threads, using

from chatglm.engine.attention import attend_reference
from chatglm.engine.cache import KVCache, PagedBatch
from chatglm.engine.native_attention import attend_native, unsuited

pytestmark = needs_kernels

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8]


class Step:
    """A step over a cache that holds something everywhere: `news` of the `lengths` tokens of each request are new.

    The blocks of all requests are handed out in a random order; those nobody has hold NaN.
    """

    def __init__(
        self, lengths: Sequence[int], news: Sequence[int], groups: int, rows: int, head_dim: int, dtype: torch.dtype,
        seed: int, block_size: int = 8,
    ) -> None:  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        counts = [-(-length // block_size) for length in lengths]
        blocks = torch.randperm(sum(counts) + 2, generator=generator).int()
        tables = torch.full((len(lengths), max(counts)), -1, dtype=torch.int32)
        for table, own in zip(tables, blocks.split([*counts, 2]), strict=False):
            table[: len(own)] = own
        self.slots = [
            tables[request][positions // block_size].long() * block_size + positions % block_size
            for request, positions in enumerate(map(torch.arange, lengths))
        ]
        shape = (1, len(blocks) * block_size, groups, head_dim, torch.float32, torch.device("cpu"))
        self.cache = KVCache(*shape, stored=dtype)
        if dtype != torch.int8:
            self.cache.states.fill_(torch.nan)
        num_new = sum(news)
        self.query, self.key, self.value = (
            size * torch.randn(num_new, heads, head_dim, generator=generator)
            for size, heads in ((3, groups * rows), (1, groups), (1, groups))
        )
        for slots in self.slots:
            old = torch.randn(2, len(slots), groups, head_dim, generator=generator)
            self.cache.write(0, slots, old[0], old[1])
        self.news = list(news)
        self.batch = PagedBatch(
            self.cache,
            torch.cat([slots[len(slots) - new :] for slots, new in zip(self.slots, news, strict=True)]),
            (),
            tables,
            torch.tensor(lengths, dtype=torch.int32),
            torch.tensor([0, *news]).cumsum(0).int(),
            block_size,
        )

    def found(self) -> torch.Tensor:
        return attend_native(self.query, self.key, self.value, 0, self.batch, self.query.shape[-1] ** -0.5)

    def expected(self) -> torch.Tensor:
        """From what the cache holds after the kernels wrote to it."""
        parts = zip(self.query.split(self.news), self.slots, strict=True)
        scaling = self.query.shape[-1] ** -0.5
        return torch.cat([attend_reference(query, [self.cache.read(0, slots)], scaling) for query, slots in parts])

    def check(self) -> None:
        before = self.cache.states.clone()
        # A score is a float32 sum of up to 128 products, of 20 and more before they cancel: its rounding alone was seen
        # to move a result by 1.1e-5.
        torch.testing.assert_close(self.found(), self.expected(), atol=2e-5, rtol=1e-5)
        self._check_cache(before)

    def _check_cache(self, before: torch.Tensor) -> None:
        """The new tokens' slots hold what the engine's own code would have written, the others what they held."""
        after = self.cache.states.clone()
        scales = None if self.cache.scales is None else self.cache.scales.clone()
        self.cache.states.copy_(before)
        self.cache.write(0, self.batch.slots, self.key, self.value)
        if scales is None:
            assert torch.equal(torch.nan_to_num(after), torch.nan_to_num(self.cache.states))
            return
        assert self.cache.scales is not None
        where = self.batch.slots
        torch.testing.assert_close(scales[:, 0, where], self.cache.scales[:, 0, where])
        assert (after.int() - self.cache.states.int()).abs().max() <= 1  # a tie may fall to either side


requests = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 50)), min_size=1, max_size=4)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=15)
@given(
    requests=requests,
    groups=st.sampled_from([1, 2, 3]),
    rows=st.sampled_from([1, 2, 5, 16]),
    head_dim=st.sampled_from([16, 32, 48, 128]),
    dtype=st.sampled_from(DTYPES),
    block_size=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 99),
)
def test_equals_the_reference(
    level: str, requests: list[tuple[int, int]], groups: int, rows: int, head_dim: int, dtype: torch.dtype,
    block_size: int, seed: int,
) -> None:  # fmt: skip
    lengths, news = [length for length, _ in requests], [min(pair) for pair in requests]
    with using(level):
        Step(lengths, news, groups, rows, head_dim, dtype, seed, block_size).check()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize(("lengths", "news"), [([1023], [1]), ([1024, 1025], [1, 2]), ([2049, 7, 3100], [3, 7, 1])])
def test_contexts_that_are_cut_into_stretches(
    level: str, lengths: list[int], news: list[int], dtype: torch.dtype
) -> None:
    """A draft's first tokens do not see the last stretch at all."""
    with using(level):
        Step(lengths, news, 2, 4, 32, dtype, 0).check()


@pytest.mark.parametrize("level", LEVELS)
def test_every_part_finds_its_request_among_many(level: str) -> None:
    """Some have one part, some several, and some nothing new: those have none."""
    news = [1, 0, 0, 3, 1, 40, 0, 1, 1, 70, 2, 0] * 3
    lengths = [new + 5 + (1100 if index % 7 == 3 else 0) for index, new in enumerate(news)]
    with using(level):
        Step(lengths, news, 2, 4, 16, torch.float16, 0).check()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("length", [40, 1030, 2060])
def test_tokens_beside_it_change_no_bit_of_a_token(level: str, length: int) -> None:
    """A token and the drafts behind it, in one step or one after another: so answers are the same either way."""
    step = Step([length], [16], 2, 16, 32, torch.float16, 0)
    with using(level):
        together = step.found()
        for index in (0, 1, 5, 15):
            alone = copy(step)
            alone.query, alone.key, alone.value = (
                states[index : index + 1] for states in (step.query, step.key, step.value)
            )
            alone.batch = replace(
                step.batch,
                slots=step.batch.slots[index : index + 1],
                lengths=step.batch.lengths - 15 + index,
                query_starts=torch.tensor([0, 1], dtype=torch.int32),
            )
            assert torch.equal(alone.found()[0], together[index])


@pytest.mark.parametrize("level", LEVELS)
def test_threads_change_no_bit(level: str) -> None:
    found = []
    for count in (1, 2, 3):
        with using(level), threads(count):
            found.append(Step([1500, 40, 9], [1, 33, 4], 2, 4, 64, torch.bfloat16, 0).found())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_all_who_see_it_and_nobody_else(level: str, dtype: torch.dtype, bad: float) -> None:
    step = Step([20, 30], [1, 1], 2, 2, 32, dtype, 0)
    step.query[0, 1, 3] = step.key[1, 1, 5] = bad  # head 1 of the first request; group 1 of the second
    with using(level):
        broken = step.found().isnan().any(-1)
    assert torch.equal(broken, step.expected().isnan().any(-1))
    if bad != bad:  # a score of minus infinity is a weight of zero
        assert broken.tolist() == [[False, True, False, False], [False, False, True, True]]


def test_large_scores_stay_numbers() -> None:
    for level in LEVELS:
        step = Step([70], [5], 1, 4, 16, torch.float32, 0)
        step.query *= 1e4
        with using(level):
            torch.testing.assert_close(step.found(), step.expected(), atol=1e-5, rtol=1e-4)


def test_caches_it_cannot_read() -> None:
    cpu = torch.device("cpu")
    assert unsuited(KVCache(1, 8, 1, 16, torch.bfloat16, cpu), False) is None
    for cache, prefix, words in [
        (KVCache(1, 8, 1, 16, torch.float32, torch.device("meta")), False, "lies on meta"),
        (KVCache(1, 8, 1, 12, torch.float32, cpu), False, "12 channels"),
        (KVCache(1, 8, 1, 16, torch.float64, cpu), False, "float64"),
        (KVCache(1, 8, 1, 16, torch.float32, cpu), True, "prefix"),
    ]:
        assert words in (unsuited(cache, prefix) or "")
