"""The Triton linear layer against `packing.dequantize`, interpreted on a CPU."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton_cases import BOUNDS, SCHEMES, activations, apply, check, fresh_kernels, needs_triton, packed_of

from chatglm.errors import ConfigError
from chatglm.quant import packing
from chatglm.quant.kernels import triton_linear
from chatglm.quant.scheme import QuantScheme

schemes = st.sampled_from(SCHEMES)


@pytest.fixture(scope="module")
def interpreted() -> Iterator[None]:
    with fresh_kernels(interpreted=True):
        yield


@needs_triton
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheme=schemes,
    rows=st.integers(1, 70),
    columns=st.integers(1, 300),
    tokens=st.integers(0, 40),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    with_bias=st.booleans(),
)
def test_the_product_is_that_of_the_dequantized_weight(interpreted, scheme, rows, columns, tokens, dtype, with_bias):
    bias = torch.randn(rows).to(dtype) if with_bias else None
    check(activations(tokens, columns, dtype), packed_of(rows, columns, scheme), bias, scheme)


@needs_triton
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scheme=schemes, rows=st.integers(1, 70), columns=st.integers(1, 300), dtype=st.sampled_from(list(BOUNDS)))
def test_rows_are_dequantized_to_the_bit(interpreted, scheme, rows, columns, dtype):
    packed = packed_of(rows, columns, scheme)
    tensors = (packed.values, packed.scales, packed.zeros, rows, columns, scheme.bits, scheme.group_size)
    wanted = packing.dequantize(packed, scheme)
    ids = torch.randint(0, rows, (2, 3))
    for found, rounded in (
        (triton_linear.dequantize(*tensors, dtype), wanted.to(dtype)),
        (triton_linear.dequantize(*tensors, dtype, ids), wanted.to(dtype)[ids]),
    ):
        # The interpreter cuts bfloat16 off instead of rounding it.
        torch.testing.assert_close(found, rounded, atol=0, rtol=8e-3 if dtype == torch.bfloat16 else 0)


@needs_triton
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_bfloat16_of_one_token(interpreted, scheme):
    # Several tokens are for the GPU: the interpreter multiplies the bits of bfloat16 numbers.
    check(activations(1, 150, torch.bfloat16), packed_of(20, 150, scheme), None, scheme)


@needs_triton
@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("scheme", [SCHEMES[1], QuantScheme(8, None)], ids=lambda scheme: scheme.name)
def test_shares_of_the_columns_add_up_the_same_way_every_time(interpreted, monkeypatch, tokens, scheme):
    monkeypatch.setattr(triton_linear, "_GEMV_STEPS", 32)
    packed, x, bias = packed_of(18, 2200, scheme), activations(tokens, 2200, torch.float32), torch.randn(18)
    merged = []
    merge = triton_linear._merge
    monkeypatch.setattr(triton_linear, "_merge", lambda *parts: (merged.append(parts[0].shape), merge(*parts)))
    check(x, packed, bias, scheme)
    assert merged[0][0] > 1, "the case should have shares"
    assert torch.equal(apply(x, packed, bias, scheme), apply(x, packed, bias, scheme))


@given(wanted=st.integers(0, 300), steps=st.integers(1, 4000), tile=st.sampled_from([16, 32, 256]))
def test_shares_cover_every_step_once(wanted, steps, tile):
    shares, size = triton_linear._shares(wanted, steps, tile)
    assert shares >= 1
    assert size % tile == 0
    assert (shares - 1) * size < steps <= shares * size
    assert shares <= max(1, wanted)


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # the interpreter's numpy about infinity times zero
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_what_is_not_finite_stays_in_its_row(interpreted, tokens, bad):
    scheme = SCHEMES[0]
    packed, x = packed_of(33, 100, scheme), activations(tokens, 100, torch.float32)
    clean = apply(x, packed, None, scheme)
    x[-1, 7] = bad
    found = apply(x, packed, None, scheme)
    assert torch.equal(found[:-1], clean[:-1])
    weight = packing.dequantize(packed, scheme)
    assert not torch.isfinite(found[-1][weight[:, 7] != 0]).any()


@needs_triton
def test_any_leading_shape_and_stride(interpreted):
    scheme = SCHEMES[0]
    packed, x = packed_of(33, 100, scheme), activations(12, 100, torch.float32)
    flat = apply(x, packed, None, scheme)
    assert torch.equal(apply(x.view(3, 4, 100), packed, None, scheme), flat.view(3, 4, 33))
    assert torch.equal(apply(x.T.contiguous().T, packed, None, scheme), flat)
    assert apply(x[:0].view(2, 0, 100), packed, None, scheme).shape == (2, 0, 33)
    spread = activations(2, 100, torch.float32).T.contiguous().T[:1]
    assert torch.equal(apply(spread, packed, None, scheme), apply(spread.contiguous(), packed, None, scheme))


@needs_triton
def test_an_id_that_is_no_row_gives_nan(interpreted):
    scheme = QuantScheme(8, None)
    packed = packed_of(5, 40, scheme)
    tensors = (packed.values, packed.scales, packed.zeros, 5, 40, scheme.bits, scheme.group_size, torch.float32)
    found = triton_linear.dequantize(*tensors, torch.tensor([-1, 0, 4, 5, 2**40]))
    assert torch.isnan(found).all(1).tolist() == [True, False, False, True, True]
    assert triton_linear.dequantize(*tensors, torch.tensor([], dtype=torch.long)).shape == (0, 40)


@pytest.mark.parametrize(
    ("x", "bias", "features", "message"),
    [
        (torch.zeros(2, 40, dtype=torch.float64), None, 5, "float64.*float16, bfloat16 or float32"),
        (torch.zeros(2, 65), None, 5, "64 columns got activations of 65"),
        (torch.zeros(2, 0), None, 5, "activations of 0"),
        (torch.zeros(2, 40), torch.zeros(1), 5, r"bias of shape \[1\]"),
        (torch.zeros(2, 40), None, 17, "16 rows was asked for 17"),
    ],
)
def test_what_does_not_fit_is_refused(x, bias, features, message):
    packed = packed_of(5, 40, SCHEMES[0])
    with pytest.raises(ConfigError, match=message):
        triton_linear.linear(x, packed.values, packed.scales, None, bias, features, 4, 32)


def test_where_it_does_not_run_there_is_a_reason():
    assert "GPU" in (triton_linear.unsuited(torch.device("cpu"), torch.float16) or "")
    assert "mps" in (triton_linear.unsuited(torch.device("mps"), torch.float16) or "")
