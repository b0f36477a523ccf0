"""Rounding by the native kernels gives the bits that torch gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chatglm import native
from chatglm.errors import ConfigError
from chatglm.quant.kernels.rounding import rounded
from chatglm.quant.linear import RowwiseLinear
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packing import Packed, pack, quantize
from chatglm.quant.scheme import OFFICIAL, QuantScheme

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels were not built")

SCHEMES = [QuantScheme.parse(name) for name in "int4 int4-g64 int4-g128-asym int8 int8-g32".split()]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def weight_of(rows: int, columns: int, dtype: torch.dtype, size: float, seed: int) -> Tensor:
    """Random numbers, among them zeros of both signs, rows of nothing and equal extremes of both signs."""
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=source) * size
    weight[torch.rand(rows, columns, generator=source) < 0.05] = -0.0
    weight[0] = 0
    weight[-1, : columns // 2] = weight[-1].abs().max()
    weight[-1, columns // 2 :] = -weight[-1].abs().max()
    return weight.to(dtype)


def assert_equal(found: Packed | None, expected: Packed) -> None:
    assert found is not None
    for part in ("values", "scales", "zeros"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)), part


weights = st.builds(
    weight_of, st.integers(1, 40), st.integers(1, 150).map(lambda n: 2 * n), st.sampled_from(DTYPES),
    st.sampled_from([1e-8, 1e-6, 1e-3, 0.02, 1.0, 300.0]), st.integers(0, 2**31),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(weight=weights, scheme=st.sampled_from(SCHEMES))
def test_groups_and_rows(weight: Tensor, scheme: QuantScheme) -> None:
    assert_equal(rounded(weight, scheme), pack(*quantize(weight, scheme), weight.shape[1], scheme))


@settings(max_examples=150, deadline=None)
@given(weight=weights, bits=st.sampled_from([4, 8]))
def test_the_official_formula(weight: Tensor, bits: int) -> None:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight)
    expected = PackedLinear.from_rowwise(RowwiseLinear.from_linear(linear, bits))
    assert_equal(rounded(weight, OFFICIAL[bits], official=True), expected.packed)
    assert PackedLinear.from_linear(linear, OFFICIAL[bits]).scale_dtype == expected.scale_dtype


def test_what_cannot_be_rounded_is_said_as_through_torch() -> None:
    for value, words in ((float("nan"), "NaN"), (float("-inf"), "infinity"), (3e38, "does not fit")):
        linear = nn.Linear(64, 20)
        with torch.no_grad():
            linear.weight[17, 60] = value
        assert rounded(linear.weight, SCHEMES[0]) is None
        with pytest.raises(ConfigError, match=words):
            PackedLinear.from_linear(linear, SCHEMES[0])


def test_a_part_of_a_matrix() -> None:
    part = torch.randn(40, 96)[3:30, 10:74]
    assert_equal(rounded(part, SCHEMES[0]), pack(*quantize(part, SCHEMES[0]), 64, SCHEMES[0]))
