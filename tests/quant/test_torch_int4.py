"""torch's own operators for quantized weights against `packing.dequantize`; those for GPUs in shape and dtype."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from chatglm.errors import ConfigError
from chatglm.quant import packing
from chatglm.quant.kernels import torch_int4
from chatglm.quant.scheme import QuantScheme

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
FOUR_BITS = [QuantScheme(4, size, symmetric) for size in (32, 64, 128) for symmetric in (True, False)]
ROWWISE = [QuantScheme(4, None), QuantScheme(8, None)]
schemes = st.sampled_from([*FOUR_BITS, *ROWWISE])


def packed_of(rows: int, columns: int, scheme: QuantScheme) -> packing.Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns)) * 0.1
    return packing.pack(*packing.quantize(weight, scheme), columns, scheme)


@settings(max_examples=60)
@given(
    scheme=schemes,
    rows=st.integers(1, 70),
    columns=st.integers(1, 300),
    tokens=st.integers(0, 20),
    with_bias=st.booleans(),
)
def test_on_a_cpu_the_product_is_that_of_the_dequantized_weight(scheme, rows, columns, tokens, with_bias):
    packed = packed_of(rows, columns, scheme)
    weight = torch_int4.convert(packed, scheme, CPU, torch.bfloat16)
    generator = torch.Generator().manual_seed(tokens * columns)
    x = torch.randn(tokens, columns, generator=generator).bfloat16()
    bias = torch.randn(rows, generator=generator) if with_bias else None
    found = torch_int4.linear(x, weight, bias)
    reference = packing.dequantize(packed, scheme).double()
    wanted = x.double() @ reference.T
    sizes = x.double().abs() @ reference.abs().T
    if bias is not None:
        wanted, sizes = wanted + bias.double(), sizes + bias.double().abs()
    assert found.shape == wanted.shape
    assert found.dtype == torch.bfloat16
    # bfloat16 rounds by 2**-8 at most: the scale and the product, and where there is a bias their sum.
    bound = (3 if with_bias else 2) * 2**-8 * sizes
    if not scheme.symmetric:  # a zero is rounded too: by up to 1/64 of a step, for all columns of a group alike
        bound += 2**-6 * 0.1 * x.double().abs().sum(-1, keepdim=True)
    assert ((found.double() - wanted).abs() <= bound).all()


@given(scheme=schemes, rows=st.integers(1, 40), columns=st.integers(1, 300))
def test_scale_and_zero_give_the_same_weight(scheme, rows, columns):
    if scheme.bits == 8:
        return
    packed = packed_of(rows, columns, scheme)
    values, scales, zeros = packing.unpack(packed, scheme)
    groups = values.shape[1] // (scheme.group_size or values.shape[1])
    middle = torch.full_like(scales, 8) if zeros is None else zeros.to(scales.dtype)
    affine = torch_int4._affine(scales.float(), middle.float(), groups, torch.float32)
    stored = values.float() + (8 if zeros is None else 0)
    scale, zero = affine.transpose(0, 1).unbind(-1)
    found = ((stored.unflatten(1, (groups, -1)) - 8) * scale[..., None] + zero[..., None]).flatten(1)[:, :columns]
    torch.testing.assert_close(found, packing.dequantize(packed, scheme), atol=1e-6, rtol=1e-6)


@given(rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_nibbles_hold_the_even_column_above_the_odd_one(rows, columns):
    values = torch.randint(0, 16, (rows, 2 * columns), dtype=torch.int8)
    found = torch_int4.nibbles(values)
    assert torch.equal(torch.stack((found >> 4, found & 15), -1).flatten(1), values.to(torch.uint8))


@given(rows=st.integers(1, 70), columns=st.integers(1, 600), scheme=st.sampled_from([*FOUR_BITS, ROWWISE[0]]))
@settings(max_examples=30)
def test_shapes_and_dtypes_are_those_the_operators_for_gpus_ask_for(rows, columns, scheme):
    packed = packed_of(rows, columns, scheme)
    lay_out = torch_int4._lay_out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_int4, "_lay_out", lambda values, _: lay_out(values, torch.device("meta")))
        weight = torch_int4.convert(packed, scheme, CPU, torch.bfloat16)
    tiles, width, padded_rows = (
        torch_int4.inner_tiles(weight.padded_columns),
        weight.padded_columns,
        -(-rows // 16) * 16,
    )
    assert width % (16 * tiles) == 0
    assert weight.values.shape == (padded_rows // 8, width // (16 * tiles), 32, tiles // 2)
    assert weight.values.dtype == torch.int32
    assert weight.group_size in torch_int4.GROUP_SIZES
    assert weight.scales.shape == (width // weight.group_size, padded_rows, 2)
    assert weight.scales.dtype == torch.bfloat16
    with FakeTensorMode():
        values, scales = (torch.empty(one.shape, dtype=one.dtype) for one in (weight.values, weight.scales))
        fake = replace(weight, values=values, scales=scales)
        out = torch_int4.linear(torch.empty(2, 3, columns, dtype=torch.bfloat16), fake)
    assert (out.shape, out.dtype) == ((2, 3, rows), torch.bfloat16)


@pytest.mark.parametrize("scheme", [FOUR_BITS[0], FOUR_BITS[3], *ROWWISE], ids=lambda scheme: scheme.name)
def test_what_is_not_a_number_stays_in_its_row(scheme):
    packed = packed_of(20, 100, scheme)
    weight = torch_int4.convert(packed, scheme, CPU, torch.bfloat16)
    x = torch.randn(3, 100).bfloat16()
    clean = torch_int4.linear(x, weight)
    x[1, 7] = float("nan")
    found = torch_int4.linear(x, weight)
    assert torch.isnan(found[1]).all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize(
    ("scheme", "device", "dtype", "reason"),
    [
        (FOUR_BITS[0], CPU, torch.bfloat16, None),
        (ROWWISE[1], CPU, torch.bfloat16, None),
        (FOUR_BITS[0], CPU, torch.float32, "bfloat16 only at a useful speed; the activations are torch.float32"),
        (FOUR_BITS[0], CPU, torch.float16, "bfloat16 only"),
        (QuantScheme(8, 32), CPU, torch.bfloat16, "int8-g32 has groups"),
        (FOUR_BITS[1], CUDA, torch.bfloat16, None),
        (FOUR_BITS[1], CUDA, torch.float16, "cuda take bfloat16 only; the activations are torch.float16"),
        (ROWWISE[1], CUDA, torch.bfloat16, "matrix units"),
        (ROWWISE[0], MPS, torch.float16, None),
        (ROWWISE[1], MPS, torch.float32, None),
        (QuantScheme(8, 32), MPS, torch.float16, "has groups"),
        (FOUR_BITS[0], MPS, torch.float64, "float64"),
        (FOUR_BITS[0], torch.device("xpu"), torch.bfloat16, "xpu"),
    ],
)
def test_what_is_supported_and_why_not(scheme, device, dtype, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # what the GPU here can do is not asked
    found = torch_int4.supports(scheme, device, dtype)
    assert found is None if reason is None else reason in (found or "")
    if reason is not None:
        with pytest.raises(ConfigError, match=dtype.__repr__() if "activations" in reason else "torch"):
            torch_int4.convert(packed_of(4, 40, scheme), scheme, device, dtype)


def test_activations_must_fit_the_conversion():
    weight = torch_int4.convert(packed_of(4, 40, FOUR_BITS[0]), FOUR_BITS[0], CPU, torch.bfloat16)
    with pytest.raises(ConfigError, match=r"bfloat16 \[\.\.\., 40\] got torch.float32 \[1, 40\]"):
        torch_int4.linear(torch.zeros(1, 40), weight)
    with pytest.raises(ConfigError, match=r"got torch.bfloat16 \[1, 64\]"):
        torch_int4.linear(torch.zeros(1, 64, dtype=torch.bfloat16), weight)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", [*FOUR_BITS, ROWWISE[0]], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("tokens", [1, 17])
def test_on_a_gpu(scheme, tokens):
    if not torch.cuda.is_available() or torch_int4.supports(scheme, CUDA, torch.bfloat16):
        pytest.skip("no GPU that has the operator")
    packed = packed_of(200, 1234, scheme)
    weight = torch_int4.convert(packed, scheme, CUDA, torch.bfloat16)
    x = torch.randn(tokens, 1234).bfloat16()
    wanted = x.double() @ packing.dequantize(packed, scheme).double().T
    found = torch_int4.linear(x.cuda(), weight).cpu().double()
    assert (found - wanted).norm() <= 1e-2 * wanted.norm()
