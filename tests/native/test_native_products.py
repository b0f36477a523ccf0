"""Products with packed weights, on every instruction set of this processor, against the weights as numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_levels import LEVELS, needs_kernels, threads, using
from torch import Tensor

from chatglm import native
from chatglm.errors import ConfigError
from chatglm.quant.kernels.ops import native_weight
from chatglm.quant.packing import Packed, dequantize, pack, quantize
from chatglm.quant.scheme import QuantScheme

pytestmark = needs_kernels

NAMES = "int4 int4-g64 int4-g128 int4-asym int4-g64-asym int4-g128-asym int4-rowwise int8 int8-g32 int8-g128"
SCHEMES = [QuantScheme.parse(name) for name in NAMES.split()]
# Tiles of 1 to 8 tokens, several tiles, and beyond 32 tokens unpacked panels.
TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 17, 24, 32, 33, 41, 70]


def packed_weight(rows: int, columns: int, scheme: QuantScheme, seed: int) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1
    return pack(*quantize(weight, scheme), columns, scheme)


def as_native(packed: Packed, scheme: QuantScheme, bias: Tensor | None = None) -> native.Weight:
    parts = (packed.values, packed.scales, packed.zeros, bias, packed.rows, packed.columns)
    return native_weight(*parts, scheme.bits, scheme.group_size)


def rounded(states: Tensor) -> Tensor:
    """What the kernels make of activations: whole numbers up to 127 in groups of 32, each with a scale."""
    columns = states.shape[1]
    groups = torch.nn.functional.pad(states, (0, -columns % 32)).unflatten(1, (-1, 32))
    largest = groups.abs().amax(-1, keepdim=True)
    most = torch.full_like(largest, 127)  # `127 / largest` would be 127 times a reciprocal, rounded twice
    inverse = torch.where(largest > 0, most / largest, torch.zeros_like(largest))
    whole = torch.round(groups * inverse)
    return (whole.double() * (largest / 127).double()).flatten(1)[:, :columns]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


products = {
    "rows": st.integers(1, 140),
    "columns": st.integers(1, 300),
    "tokens": st.sampled_from(TOKENS),
    "scheme": st.sampled_from(SCHEMES),
    "with_bias": st.booleans(),
    "seed": st.integers(0, 999),
}


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=30)
@given(**products)
def test_the_product_of_rounded_activations_is_exact(
    level: str, rows: int, columns: int, tokens: int, scheme: QuantScheme, with_bias: bool, seed: int
) -> None:
    """But for the order in which float32 sums are added up."""
    generator = torch.Generator().manual_seed(seed + 1)
    packed = packed_weight(rows, columns, scheme, seed)
    states = torch.randn(tokens, columns, generator=generator)
    bias = torch.randn(rows, generator=generator) if with_bias else None
    with using(level):
        found = native.linear(as_native(packed, scheme, bias), states)
    weight = dequantize(packed, scheme).double()
    expected = torch.nn.functional.linear(rounded(states), weight, None if bias is None else bias.double())
    # 4-bit numbers are summed from 0 to 15 and put right by the zero: what is added up is larger than the result.
    bound = 1e-6 * (states.abs().double() @ weight.abs().T + states.abs().amax() * weight.abs().amax() * 16 + 1)
    assert (found.double() - expected).abs().le(bound).all()


@pytest.mark.parametrize("columns", [128, 1000, 4096])
@pytest.mark.parametrize("outlier", [1, 60])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_rounding_activations_costs_less_than_a_hundredth(scheme: QuantScheme, outlier: int, columns: int) -> None:
    """Also where channels are 60 times as large as the others, beside each other too: those are not rounded."""
    packed = packed_weight(64, columns, scheme, 3)
    weight = dequantize(packed, scheme).double()
    for tokens in (1, 5, 40):
        states = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(tokens))
        states[:, [57, 58, columns - 1]] *= outlier
        expected = states.double() @ weight.T
        for level in LEVELS:
            with using(level):
                found = native.linear(as_native(packed, scheme), states)
            for token in range(tokens):
                assert relative(found[token], expected[token]) < 1e-2


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_a_row_of_few_large_numbers_is_exact(scheme: QuantScheme) -> None:
    packed = packed_weight(70, 300, scheme, 4)
    weight = dequantize(packed, scheme).double()
    states = torch.zeros(34, 300)
    for token in range(34):  # one or two of any size, wherever they are
        states[token, [token * 7, 299 - token]] = torch.tensor([3.0, -1.7]) * 10.0 ** (token % 3 * 5)
    for level in LEVELS:
        with using(level):
            for rows in (states, states[:5], states[:1]):
                found = native.linear(as_native(packed, scheme), rows)
                assert relative(found, rows.double() @ weight.T) < 1e-6


@pytest.mark.parametrize("tokens", [1, 3, 9, 40])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_threads_change_no_bit_and_levels_hardly_one(scheme: QuantScheme, tokens: int) -> None:
    packed = packed_weight(700, 256, scheme, 5)
    states = torch.randn(tokens, 256, generator=torch.Generator().manual_seed(1))
    of_levels = []
    for level in LEVELS:
        with using(level):
            found = []
            for count in (1, 2, 3):
                with threads(count):
                    found.append(native.linear(as_native(packed, scheme), states))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        of_levels.append(found[0])
    for other in of_levels[1:]:
        assert relative(other, of_levels[0]) < 1e-6


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=15)
@given(
    tokens=st.sampled_from([2, 7, 9, 40]),
    bad=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    column=st.integers(0, 99),
    scheme=st.sampled_from(SCHEMES),
)
def test_a_broken_row_breaks_alone(level: str, tokens: int, bad: float, column: int, scheme: QuantScheme) -> None:
    weight = as_native(packed_weight(37, 100, scheme, 2), scheme)
    states = torch.randn(tokens, 100, generator=torch.Generator().manual_seed(0))
    with using(level):
        sound = native.linear(weight, states)
        states[tokens // 2, column] = bad
        found = native.linear(weight, states)
    assert found[tokens // 2].isnan().all()
    others = torch.arange(tokens) != tokens // 2
    assert torch.equal(found[others], sound[others])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_nothing_and_zeros(level: str, scheme: QuantScheme) -> None:
    bias = torch.arange(20.0)
    weight = as_native(packed_weight(20, 50, scheme, 4), scheme, bias)
    blank = as_native(pack(*quantize(torch.zeros(20, 50), scheme), 50, scheme), scheme, bias)
    with using(level):
        assert native.linear(weight, torch.empty(0, 50)).shape == (0, 20)
        for tokens in (1, 40):
            everywhere = bias.expand(tokens, 20)
            assert torch.equal(native.linear(weight, torch.zeros(tokens, 50)), everywhere)
            assert torch.equal(native.linear(blank, torch.randn(tokens, 50)), everywhere)
            # Too small for 8 bits with a float32 scale: counts as zero, and never as anything else.
            torch.testing.assert_close(native.linear(weight, torch.full((tokens, 50), 1e-41)), everywhere)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=20)
@given(
    rows=st.integers(1, 70), columns=st.integers(1, 200), scheme=st.sampled_from(SCHEMES), seed=st.integers(0, 99),
    data=st.data(),
)  # fmt: skip
def test_weights_as_numbers_are_exact(
    level: str, rows: int, columns: int, scheme: QuantScheme, seed: int, data: st.DataObject
) -> None:
    packed = packed_weight(rows, columns, scheme, seed)
    expected, weight = dequantize(packed, scheme), as_native(packed, scheme)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first, rows))
    ids = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=9)), dtype=torch.int64)
    with using(level):
        assert torch.equal(native.dequantize(weight), expected)
        assert torch.equal(native.dequantize(weight, first, last), expected[first:last])
        assert torch.equal(native.gather(weight, ids), expected[ids])


def test_a_level_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="instruction set is 'mmx'; this processor has"):
        native.use_level("mmx")
    assert LEVELS[-1] == "portable"  # runs everywhere
    assert native.level() == LEVELS[0]  # the best is the default


def test_memory_is_read() -> None:
    assert native.read_rate(2**20, 2) > 0
    assert native.product_rate(10, 2) > 0
