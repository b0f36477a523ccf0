"""Layouts and gaps, which are kept up to date, against what they would be if built anew each time."""

from hypothesis import given
from hypothesis import strategies as st

from chatglm.engine.blocks import BlockManager
from chatglm.engine.gaps import Gaps
from chatglm.engine.layout import Layouts
from chatglm.engine.request import Request, SamplingParams

SIZE = 4
changes = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["extend", "shrink", "free"]), st.integers(1, 40)), max_size=60
)


def expected_slots(table: list[int], length: int) -> list[int]:
    return [table[position // SIZE] * SIZE + position % SIZE for position in range(length)]


@given(changes, st.booleans())
def test_layouts_follow_the_block_tables(changes: list[tuple[int, str, int]], neighbours: bool) -> None:
    blocks, layouts = BlockManager(24, SIZE, prefix_cache=False), Layouts(SIZE)
    requests = [Request([1] * 9, SamplingParams(), frozenset()) for _ in range(6)]
    for request in requests:
        request.max_total = 40 if neighbours else 0
    for which, change, amount in changes:
        request = requests[which]
        if change == "extend":
            blocks.extend(request, amount)
        elif change == "shrink":
            blocks.shrink(request, amount)
        else:
            blocks.free(request)
        blocks.check_integrity(requests)
        holding = [request for request in requests if request.block_table]
        if not holding or amount % 3 == 0:  # some changes are seen together
            continue
        tables = layouts.tables(holding)
        for row, request in zip(tables.tolist(), holding, strict=True):
            assert row[: len(request.block_table)] == request.block_table
            length = min(amount, len(request.block_table) * SIZE)
            runs = layouts.runs(request, length)
            assert all(left.stop != right.start for left, right in zip(runs, runs[1:], strict=False))
            slots = expected_slots(request.block_table, length)
            assert [slot for run in runs for slot in range(run.start, run.stop)] == slots
            assert layouts.slots(request, length // 2, length) == slots[length // 2 :]


def test_rows_of_requests_that_are_gone_are_used_again() -> None:
    blocks, layouts = BlockManager(8, SIZE, prefix_cache=False), Layouts(SIZE)
    finished = []
    for _ in range(40):
        request = Request([1], SamplingParams(), frozenset())
        blocks.extend(request, 1)
        assert layouts.tables([request]).tolist() == [request.block_table]
        blocks.free(request)
        finished.append(request)
    assert layouts._tables.shape[0] == 4


@given(st.integers(0, 20), st.lists(st.integers(0, 19), max_size=80), st.integers(0, 25))
def test_gaps_are_a_set_in_stretches(stop: int, numbers: list[int], wanted: int) -> None:
    gaps, expected = Gaps(stop), set(range(stop))
    for number in (number for number in numbers if number < stop):
        if number in expected:
            gaps.remove(number)
        else:
            gaps.add(number)
        expected ^= {number}
        ranges = list(gaps)
        assert sorted(expected) == [one for gap in ranges for one in gap]
        assert all(left.stop < right.start for left, right in zip(ranges, ranges[1:], strict=False))
        fitting = list(gaps.by_fit(wanted))
        assert sorted(fitting, key=lambda gap: gap.start) == ranges
        assert sorted(fitting, key=lambda gap: len(gap) < wanted) == fitting, "those that are large enough come first"


def test_a_request_grows_in_neighbouring_blocks_beside_others() -> None:
    blocks = BlockManager(32, SIZE, prefix_cache=False)
    requests = [Request([1] * 3, SamplingParams(), frozenset()) for _ in range(4)]
    for request in requests:
        request.max_total = 8 * SIZE
    for length in range(1, 8 * SIZE + 1):
        for request in requests:
            assert blocks.extend(request, length)
    for request in requests:
        first = request.block_table[0]
        assert request.block_table == list(range(first, first + 8))


def test_a_place_is_found_among_many_gaps_and_nobody_elses_is_taken() -> None:
    """Every second block is taken, and a few neighbours are free somewhere in the middle."""
    blocks = BlockManager(2000, SIZE, prefix_cache=False)
    hog = Request([1] * 2000 * SIZE, SamplingParams(), frozenset())
    hog.block_table = [blocks._take(None) for _ in range(2000)]
    free = sorted({*range(0, 2000, 2), *range(1001, 1012)})
    for block in free:
        blocks._release(block)
    hog.block_table = [block for block in range(2000) if block not in free]
    tables = []
    for wanted in (6, 5, 3):
        request = Request([1], SamplingParams(), frozenset())
        request.max_total = wanted * SIZE
        assert blocks.extend(request, 1)
        tables.append(request)
    for wanted, request in zip((6, 5, 3), tables, strict=True):
        assert blocks.extend(request, wanted * SIZE)
    for request in tables[:2]:
        first = request.block_table[0]
        assert request.block_table == list(range(first, first + len(request.block_table)))
    blocks.check_integrity([hog, *tables])
