"""The official row-wise INT8 / INT4 format against matrices quantized by the official code, bit for bit."""

import copy

import pytest
import torch
from golden_data import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from chatglm.errors import CheckpointError, ConfigError
from chatglm.quant import rowwise
from chatglm.quant.linear import RowwiseLinear
from chatglm.quant.model import empty_rowwise, pack_rowwise, quantize_rowwise, scheme_of, unpack_model
from chatglm.quant.packed import PackedLinear
from chatglm.quant.scheme import OFFICIAL

GOLDEN = load_file(golden_file("quantization/matrices.safetensors"))
MATRICES = sorted(
    {name.partition(".int")[0] for name in GOLDEN if ".int" in name and f"{name.partition('.int')[0]}.weight" in GOLDEN}
    - {"linear"}
)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", MATRICES)
def test_quantizing_gives_the_official_bits(name: str, bits: int) -> None:
    stored, scale = rowwise.quantize(GOLDEN[f"{name}.weight"], bits)
    inside = ~GOLDEN[f"{name}.int{bits}.out_of_range"]  # elsewhere the official cast wraps to the other sign
    values = rowwise.unpack(stored) if bits == 4 else stored
    expected = GOLDEN[f"{name}.int4.values"] if bits == 4 else GOLDEN[f"{name}.int8.weight"]
    assert scale.dtype == GOLDEN[f"{name}.weight"].dtype
    assert torch.equal(scale, GOLDEN[f"{name}.int{bits}.weight_scale"])
    assert torch.equal(values[inside], expected[inside])
    if bits == 4 and bool(inside.all()):
        assert torch.equal(stored, GOLDEN[f"{name}.int4.weight"])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", [name for name in MATRICES if f"{name}.int8.dequantized" in GOLDEN])
def test_dequantizing_gives_the_official_bits(name: str, bits: int) -> None:
    weight = rowwise.dequantize(GOLDEN[f"{name}.int{bits}.weight"], GOLDEN[f"{name}.int{bits}.weight_scale"], bits)
    assert torch.equal(weight, GOLDEN[f"{name}.int{bits}.dequantized"])


def test_every_pair_of_nibbles() -> None:
    assert torch.equal(rowwise.pack(GOLDEN["pack.values"]), GOLDEN["pack.packed"])
    assert torch.equal(rowwise.unpack(GOLDEN["pack.packed"]), GOLDEN["pack.values"])


@pytest.mark.parametrize("bits", [8, 4])
def test_the_layer_gives_the_official_outputs(bits: int) -> None:
    linear = nn.Linear(64, 40)
    linear.weight, linear.bias = (nn.Parameter(GOLDEN[f"linear.{name}"]) for name in ("weight", "bias"))
    layer = RowwiseLinear.from_linear(linear, bits)
    torch.testing.assert_close(layer(GOLDEN["linear.x"]), GOLDEN[f"linear.int{bits}.y"], atol=1e-2, rtol=1e-3)
    wide = layer.float()(GOLDEN["linear.x"].float())
    torch.testing.assert_close(wide, GOLDEN[f"linear.int{bits}.y_float32"], atol=2e-5, rtol=1e-5)


matrices = st.builds(
    lambda rows, pairs, seed, dtype, size: (
        torch.randn(rows, 2 * pairs, generator=torch.Generator().manual_seed(seed)) * size
    ).to(dtype),
    st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.sampled_from([1e-3, 1.0, 300.0]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(weight=matrices, bits=st.sampled_from([4, 8]), precise=st.booleans())
def test_the_error_is_at_most_half_a_step(weight: torch.Tensor, bits: int, precise: bool) -> None:
    stored, scale = rowwise.quantize(weight, bits, precise=precise)
    assert stored.dtype == torch.int8
    assert stored.shape == (weight.shape[0], weight.shape[1] * bits // 8)
    error = (rowwise.dequantize(stored, scale, bits).double() - weight.double()).abs()
    # Beside the half step: the rounding of scale, quotient and product, each relative to the largest value of the row.
    largest = weight.double().abs().amax(1, keepdim=True)
    slack = 3 * torch.finfo(weight.dtype).eps * largest + 200 * torch.finfo(weight.dtype).smallest_normal * 2
    assert (error <= 0.5 * scale.double()[:, None] + slack + 1e-3 * largest).all()


@settings(max_examples=100, deadline=None)
@given(weight=matrices, bits=st.sampled_from([4, 8]))
def test_quantizing_what_was_dequantized_changes_nothing(weight: torch.Tensor, bits: int) -> None:
    first, scale = rowwise.quantize(weight.float(), bits)
    again, _ = rowwise.quantize(rowwise.dequantize(first, scale, bits), bits)
    assert torch.equal(first, again)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.integers(-8, 7), min_size=2, max_size=64).filter(lambda v: len(v) % 2 == 0))
def test_packing_is_reversible(values: list[int]) -> None:
    row = torch.tensor([values], dtype=torch.int8)
    assert torch.equal(rowwise.unpack(rowwise.pack(row)), row)


def test_bfloat16_keeps_its_signs() -> None:
    """The official int8 cast turns the largest weight of many bfloat16 rows into its opposite."""
    weight = torch.randn(400, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    for precise in (False, True):
        stored, scale = rowwise.quantize(weight, 8, precise=precise)
        assert (rowwise.dequantize(stored, scale, 8).sign() * weight.sign() >= 0).all()
    errors = [
        (rowwise.dequantize(*rowwise.quantize(weight, 8, precise=precise), 8).float() - weight.float()).norm()
        for precise in (False, True)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_of_zeros(bits: int) -> None:
    weight = torch.randn(3, 8).half()
    weight[1] = 0
    stored, scale = rowwise.quantize(weight, bits)
    assert scale[1] == 0
    assert not rowwise.dequantize(stored, scale, bits)[1].any()
    assert torch.isfinite(rowwise.dequantize(stored, scale, bits)).all()


@pytest.mark.parametrize(
    ("weight", "bits", "words"),
    [
        (torch.ones(2, 4), 3, "3 bits"),
        (torch.ones(2, 4), True, "True bits"),
        (torch.ones(2, 5), 4, "5 columns"),
        (torch.ones(4), 8, "matrix"),
        (torch.ones(2, 4, dtype=torch.int8), 8, "floating point"),
        (torch.tensor([[1.0, float("nan")]]), 8, "NaN"),
        (torch.tensor([[1.0, float("inf")]]), 4, "infinity"),
    ],
)
def test_what_cannot_be_quantized(weight: torch.Tensor, bits: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rowwise.quantize(weight, bits)


def test_what_cannot_be_dequantized() -> None:
    with pytest.raises(CheckpointError, match="one scale per row"):
        rowwise.dequantize(torch.ones(2, 4, dtype=torch.int8), torch.ones(3), 8)
    with pytest.raises(CheckpointError, match="int8"):
        rowwise.dequantize(torch.ones(2, 4), torch.ones(2), 8)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(8, 12)
        self.dense = nn.Linear(12, 8, bias=False)
        self.other = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(self.dense(self.query_key_value(x)))  # type: ignore[no-any-return]


def test_a_model_is_quantized_in_place_and_back() -> None:
    model = Layer()
    reference = copy.deepcopy(model)
    quantize_rowwise(model, 8)
    assert scheme_of(model) == OFFICIAL[8]
    assert type(model.other) is nn.Linear
    x = torch.randn(5, 8)
    torch.testing.assert_close(model(x), reference(x), atol=0.05, rtol=0.05)
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            layer.precise = True
    before = model(x)
    assert quantize_rowwise(model, 8) is model  # once more changes nothing
    with pytest.raises(ConfigError, match="already quantized .int8-rowwise"):
        quantize_rowwise(model, 4)
    unpack_model(model)
    assert scheme_of(model) is None
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_model_takes_the_state_of_official_files_and_its_own(bits: int) -> None:
    plain, x = Layer(), torch.randn(2, 8)
    official = copy.deepcopy(plain)
    for name in ("query_key_value", "dense"):
        setattr(official, name, RowwiseLinear.from_linear(getattr(plain, name), bits))
    empty = empty_rowwise(Layer(), bits, scale_dtype=torch.float32)
    empty.load_state_dict(official.state_dict())
    assert torch.equal(official(x), empty(x))
    quantized, other = quantize_rowwise(plain, bits), quantize_rowwise(Layer(), bits)
    other.load_state_dict(official.state_dict())
    for model in (pack_rowwise(empty), other):
        assert list(model.state_dict()) == list(quantized.state_dict())
        assert torch.equal(model(x), quantized(x))
    missing = {name: tensor for name, tensor in official.state_dict().items() if name != "dense.weight"}
    with pytest.raises(RuntimeError, match="dense.weight"):
        other.load_state_dict(missing)


def test_a_model_without_such_layers() -> None:
    with pytest.raises(ConfigError, match="no layer to quantize"):
        quantize_rowwise(nn.Sequential(nn.Linear(2, 2)), 8)


@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_reach_the_input_and_the_bias(bits: int) -> None:
    layer = RowwiseLinear.from_linear(nn.Linear(8, 6), bits)
    plain = layer.to_linear()
    x = torch.randn(3, 8, requires_grad=True)
    first = torch.autograd.grad(layer(x).square().sum(), [x, layer.bias])  # type: ignore[list-item]
    second = torch.autograd.grad(plain(x).square().sum(), [x, plain.bias])
    for found, expected in zip(first, second, strict=True):
        torch.testing.assert_close(found, expected)
    assert not layer.weight.requires_grad


def test_casting_and_moving_keep_the_storage() -> None:
    layer = RowwiseLinear.from_linear(nn.Linear(8, 6).half(), 8)
    weight = layer.dequantize()
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        layer.to(dtype)
        assert layer.bias is not None
        assert layer.bias.dtype == dtype
        assert torch.equal(layer.dequantize(), weight)
    layer.to("meta")
    assert layer.weight_scale.device.type == "meta"
    assert "bits=8" in repr(layer)
