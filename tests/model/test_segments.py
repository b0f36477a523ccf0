"""Attention of packed rows: what each token sees is what a mask over the whole row lets it see."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from chatglm.model.layers import eager_attention
from chatglm.model.segments import _LONGEST_TABLE, runs, segment_attention

ROWS = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=3)


def numbered(rows: list[list[int]], columns: int) -> Tensor:
    """Which example of its row a token belongs to, from 1; 0 behind them."""
    found = torch.zeros(len(rows), columns, dtype=torch.long)
    for row, lengths in enumerate(rows):
        numbers = torch.arange(1, len(lengths) + 1).repeat_interleave(torch.tensor(lengths))
        found[row, : len(numbers)] = numbers
    return found


def masked(query: Tensor, key: Tensor, value: Tensor, segments: Tensor) -> Tensor:
    """The oracle: one mask over all tokens of a row."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    seen = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape, dtype=query.dtype).masked_fill(~seen, torch.finfo(query.dtype).min)
    return eager_attention(nn.Identity(), query, key, value, mask, 0.25)[0]


@given(ROWS, st.sampled_from([(1, 1), (4, 2), (3, 3)]), st.booleans(), st.integers(0, 2))
def test_examples_see_what_the_mask_shows_them_and_so_do_gradients(
    rows: list[list[int]], heads: tuple[int, int], half: bool, spare: int
) -> None:
    torch.manual_seed(0)
    segments = numbered(rows, max(map(sum, rows)) + spare)
    made = [torch.randn(len(rows), count, segments.shape[1], 16) for count in (heads[0], heads[1], heads[1])]
    grown = torch.randn(len(rows), segments.shape[1], heads[0], 16)
    results = []
    for attend in (
        lambda *qkv: masked(*qkv, segments),
        lambda *qkv: segment_attention(nn.Identity(), *qkv, None, 0.25, runs(segments))[0],
    ):
        inputs = [one.to(torch.bfloat16 if half else torch.float32).requires_grad_() for one in made]
        found = attend(*inputs)
        (found.float() * grown * (segments > 0)[..., None, None]).sum().backward()
        results.append([found[segments > 0], *(one.grad for one in inputs)])
    tolerance = {"atol": 0.1, "rtol": 0.05} if half else {"atol": 1e-5, "rtol": 1e-4}
    for expected, seen in zip(*results, strict=True):
        torch.testing.assert_close(seen.float(), expected.float(), **tolerance)


@given(ROWS, st.integers(0, 2))
def test_runs_cover_the_rows_and_none_goes_over_an_end(rows: list[list[int]], spare: int) -> None:
    columns = max(map(sum, rows)) + spare
    found = iter(runs(numbered(rows, columns)))
    for lengths in rows:
        padding = columns - sum(lengths)
        assert [next(found) for _ in lengths] + ([next(found)] if padding else []) == lengths + [padding] * bool(
            padding
        )
    assert next(found, None) is None


def test_a_long_example_takes_the_way_that_holds_no_table() -> None:
    torch.manual_seed(0)
    length = _LONGEST_TABLE + 1
    query, key, value = (torch.randn(1, 2, length, 16, dtype=torch.bfloat16) for _ in range(3))
    found, _ = segment_attention(nn.Identity(), query, key, value, None, 0.25, [length])
    expected = masked(query, key, value, torch.ones(1, length, dtype=torch.long))
    torch.testing.assert_close(found.float(), expected.float(), atol=0.05, rtol=0.05)


def test_a_cache_in_front_is_refused() -> None:
    query, key = torch.randn(1, 2, 3, 16), torch.randn(1, 2, 4, 16)
    with pytest.raises(ValueError, match="4 keys for 3 tokens"):
        segment_attention(nn.Identity(), query, key, key, None, 0.25, [3])
