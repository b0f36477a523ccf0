"""Rounding and the layout of packed weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatglm.errors import CheckpointError, ConfigError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.model import quantize_empty_model
from chatglm.quant.packing import Packed, Shapes, dequantize, pack, quantize, unpack
from chatglm.quant.scheme import QuantScheme

NAMES = "int4 int4-g64 int4-g128 int4-asym int4-g64-asym int4-rowwise int8 int8-g32 int8-g128"
SCHEMES = [QuantScheme.parse(name) for name in NAMES.split()]
schemes = st.sampled_from(SCHEMES)
matrices = st.builds(
    lambda rows, columns, seed, dtype, size: (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    ).to(dtype),
    st.integers(1, 40), st.integers(1, 200), st.integers(0, 999),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.sampled_from([1e-2, 1.0, 300.0]),
)  # fmt: skip


@settings(max_examples=60)
@given(weight=matrices, scheme=schemes)
def test_no_weight_is_further_off_than_half_a_step(weight: Tensor, scheme: QuantScheme) -> None:
    values, scales, zeros = quantize(weight, scheme)
    found = dequantize(pack(values, scales, zeros, weight.shape[1], scheme), scheme)
    shapes = Shapes(*weight.shape, scheme)
    step = scales.float().abs().repeat_interleave(shapes.group_size, 1)[:, : weight.shape[1]]
    # Symmetric 4 bits reach from -8 to 7: on the other side an extreme may be a whole step away. Half-precision scales
    # are off by 2^-11 themselves, times at most 128 steps.
    reach = 1.0 if scheme.symmetric and scheme.bits == 4 else 0.5
    slack = 128 * 2.0**-11 if scheme.bits == 8 else 16 * 2.0**-11
    assert ((found - weight.float()).abs() <= step * (reach + slack) + 1e-7).all()


@settings(max_examples=60)
@given(rows=st.integers(1, 40), columns=st.integers(1, 200), scheme=schemes, seed=st.integers(0, 99))
def test_packing_is_reversible(rows: int, columns: int, scheme: QuantScheme, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = Shapes(rows, columns, scheme)
    low, high = (-(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1)) if scheme.symmetric else (0, 16)
    values = torch.randint(low, high, (rows, shapes.padded_columns), dtype=torch.int8, generator=generator)
    per_group = (rows, shapes.padded_columns // shapes.group_size)
    scales = torch.rand(per_group, generator=generator).to(shapes.scales_dtype)
    zeros = None if scheme.symmetric else torch.randint(0, 16, per_group, dtype=torch.uint8, generator=generator)
    packed = pack(values, scales, zeros, columns, scheme)
    shapes.check(packed)
    again = unpack(packed, scheme)
    for before, after in zip((values, scales, zeros), again, strict=True):
        assert after is None if before is None else torch.equal(before, after)
    wide = dequantize(packed, scheme)
    row, column = rows // 2, columns // 2
    group = column // shapes.group_size
    zero = 0 if zeros is None else int(zeros[row, group])
    assert wide.shape == (rows, columns)
    assert wide[row, column] == (values[row, column].float() - zero) * scales[row, group].float()


@settings(max_examples=40)
@given(weight=matrices, scheme=schemes.filter(lambda scheme: scheme.symmetric))
def test_rounding_again_changes_nothing(weight: Tensor, scheme: QuantScheme) -> None:
    once = dequantize(pack(*quantize(weight, scheme), weight.shape[1], scheme), scheme)
    again = dequantize(pack(*quantize(once, scheme), weight.shape[1], scheme), scheme)
    # Scales are float16: near 0 they lie 2**-24 apart, and 127 of them are the largest number.
    torch.testing.assert_close(again, once, rtol=2e-3, atol=127 * 2**-25)


@settings(max_examples=20)
@given(weight=matrices)
def test_the_finer_the_better(weight: Tensor) -> None:
    weight = torch.cat([weight.float(), weight.float().flip(0) * 9], dim=1)
    errors = [
        float((dequantize(pack(*quantize(weight, s), weight.shape[1], s), s) - weight).norm())
        for s in map(QuantScheme.parse, ("int4-rowwise", "int4", "int8"))
    ]
    assert errors[2] <= errors[1] + 1e-6
    if weight.shape[1] > 64:
        assert errors[1] <= errors[0] * 1.05 + 1e-6


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_zeros_and_single_numbers(scheme: QuantScheme) -> None:
    weight = torch.zeros(20, 256)
    weight[3, 70], weight[4, 0], weight[4, 255] = 5, -1, 1
    found = dequantize(pack(*quantize(weight, scheme), 256, scheme), scheme)
    assert torch.equal(found != 0, weight != 0)
    torch.testing.assert_close(found, weight, atol=0.15, rtol=1e-3)  # 4 bits in a row: -1 is -8 steps, 1 only 7


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_what_cannot_be_quantized(scheme: QuantScheme) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        weight = torch.ones(4, 64)
        weight[2, 60] = bad
        with pytest.raises(ConfigError, match="NaN or infinity"):
            quantize(weight, scheme)
    for weight in (torch.ones(64), torch.ones(2, 2, 64)):
        with pytest.raises(ConfigError, match="a matrix is needed"):
            quantize(weight, scheme)
    for weight in (torch.ones(0, 64), torch.ones(4, 0)):
        with pytest.raises(ConfigError, match="no rows or no columns"):
            quantize(weight, scheme)
    with pytest.raises(ConfigError, match="floating point"):
        quantize(torch.ones(4, 64, dtype=torch.int8), scheme)
    if scheme.group_size is not None:
        with pytest.raises(ConfigError, match="does not fit torch.float16"):
            quantize(torch.full((4, 64), 1e9), scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_tensors_that_are_not_what_the_scheme_says(scheme: QuantScheme) -> None:
    packed = pack(*quantize(torch.randn(20, 100), scheme), 100, scheme)
    shapes = Shapes(20, 100, scheme)
    damaged = [
        Packed(packed.values[:1], packed.scales, packed.zeros, 20, 100),
        Packed(packed.values.short(), packed.scales, packed.zeros, 20, 100),
        Packed(packed.values, packed.scales.double(), packed.zeros, 20, 100),
        Packed(packed.values, packed.scales[:, :, :8], packed.zeros, 20, 100),
    ]
    if not scheme.symmetric:
        damaged.append(Packed(packed.values, packed.scales, None, 20, 100))
    else:
        damaged.append(Packed(packed.values, packed.scales, torch.zeros_like(packed.scales), 20, 100))
    for each in damaged:
        with pytest.raises(CheckpointError, match="they must be|has no zeros"):
            shapes.check(each)


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("int4", 3.75), ("int4-g128", 3.48), ("int8", 6.25), ("int4-rowwise", 3.93)]
)
def test_how_much_a_6b_model_takes(name: str, gigabytes: float) -> None:
    """The figures of docs/quantization.md, from the shapes."""
    config = ChatGLMConfig(
        num_layers=28, hidden_size=4096, ffn_hidden_size=13696, kv_channels=128, num_attention_heads=32,
        padded_vocab_size=65024, multi_query_attention=True, multi_query_group_num=2, add_qkv_bias=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config).half()
        full = sum(tensor.nbytes for tensor in model.state_dict().values())
        small = quantize_empty_model(model, QuantScheme.parse(name)).state_dict().values()
    assert full / 1e9 == pytest.approx(12.49, abs=0.005)
    assert sum(tensor.nbytes for tensor in small) / 1e9 == pytest.approx(gigabytes, abs=0.005)
