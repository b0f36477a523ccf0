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


@given(st.integers(0, 12), st.lists(st.integers(0, 11), max_size=60))
def test_gaps_are_a_set_in_stretches(stop: int, numbers: list[int]) -> None:
    gaps, expected = Gaps(stop), set(range(stop))
    for number in numbers:
        if number in expected:
            gaps.remove(number)
        else:
            gaps.add(number)
        expected ^= {number}
        ranges = list(gaps)
        assert sorted(expected) == [one for gap in ranges for one in gap]
        assert all(left.stop < right.start for left, right in zip(ranges, ranges[1:], strict=False))


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
