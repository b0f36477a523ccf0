"""PackedLinear and PackedEmbedding: products, gradients, casts, files, and what torch.compile and export see."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from chatglm import native
from chatglm.errors import CheckpointError, ConfigError
from chatglm.quant import packed
from chatglm.quant.kernels import torch_int4
from chatglm.quant.linear import RowwiseLinear
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_embedding import PackedEmbedding
from chatglm.quant.scheme import OFFICIAL, QuantScheme

NAMES = "int4 int4-g64 int4-g128-asym int4-rowwise int8 int8-g32"
SCHEMES = [QuantScheme.parse(name) for name in NAMES.split()]
by_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)


def linear_of(columns: int = 200, rows: int = 72, seed: int = 0, bias: bool = True) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(columns, rows, bias=bias)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@settings(max_examples=40)
@given(
    columns=st.integers(1, 300), rows=st.integers(1, 90), bias=st.booleans(), scheme=st.sampled_from(SCHEMES),
    shape=st.sampled_from([(), (1,), (3,), (2, 5), (40,), (0,), (2, 0, 3)]),
)  # fmt: skip
def test_the_product(columns: int, rows: int, bias: bool, scheme: QuantScheme, shape: tuple[int, ...]) -> None:
    if scheme.group_size is None and scheme.bits == 4:
        columns += columns % 2  # the official format holds pairs
    layer = PackedLinear.from_linear(linear_of(columns, rows, bias=bias), scheme)
    states = torch.randn(*shape, columns)
    with torch.no_grad():
        expected = nn.functional.linear(
            states.double(), layer.dequantize().double(), None if layer.bias is None else layer.bias.double()
        )
        close = layer(states)
        layer.precise = True
        exact = layer(states)
    assert close.shape == exact.shape == (*shape, rows)
    size = states.abs().double() @ layer.dequantize().abs().double().T + 1
    assert ((exact - expected).abs() <= 1e-6 * size).all()
    assert ((close - expected).abs() <= 2e-2 * size).all()  # activations of 8 bits


@by_scheme
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(scheme: QuantScheme, dtype: torch.dtype) -> None:
    layer = PackedLinear.from_linear(linear_of(512), scheme).to(dtype)
    states = torch.randn(5, 512).to(dtype)
    with torch.no_grad():
        out = layer(states)
        expected = nn.functional.linear(states.double(), layer.dequantize().double(), layer.bias.double())
    assert out.dtype == dtype
    assert relative(out, expected) < 1e-2


@by_scheme
def test_gradients_are_those_of_the_weight_it_stands_for(scheme: QuantScheme) -> None:
    layer = PackedLinear.from_linear(linear_of(), scheme)
    layer.precise = True
    plain = layer.to_linear()
    for shape in ((3, 200), (2, 3, 200), (200,)):
        states = torch.randn(shape, requires_grad=True)
        found, expected = (
            torch.autograd.grad(each(states).square().sum(), [states, each.bias]) for each in (layer, plain)
        )
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    frozen = torch.randn(3, 200)
    bias = torch.autograd.grad(layer(frozen).sum(), [layer.bias])[0]
    assert torch.equal(bias, torch.full_like(bias, 3))
    assert {name for name, _ in layer.named_parameters()} == {"bias"}
    without = PackedLinear.from_linear(linear_of(bias=False), scheme)
    assert not without(frozen).requires_grad
    assert torch.autograd.grad(without(states).sum(), [states])[0].shape == states.shape


def test_a_lora_trains_on_top() -> None:
    layer = PackedLinear.from_linear(linear_of(64, 32), QuantScheme.parse("int4"))
    layer.requires_grad_(False)
    down, up = nn.Parameter(torch.randn(4, 64) * 0.1), nn.Parameter(torch.zeros(32, 4))
    states, wanted = torch.randn(50, 64), torch.randn(50, 32)
    optimizer = torch.optim.Adam([down, up], lr=0.05)
    losses = []
    for _ in range(30):
        loss = (layer(states) + states @ down.T @ up.T - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@by_scheme
def test_casts_and_moves_keep_the_stored_weight(scheme: QuantScheme) -> None:
    layer = PackedLinear.from_linear(linear_of(), scheme)
    weight = layer.dequantize()
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        layer.to(dtype)
        assert layer.bias is not None
        assert layer.bias.dtype == dtype
        assert torch.equal(layer.dequantize(), weight)
    copied = copy.deepcopy(layer)
    layer.packed_values.zero_()
    assert torch.equal(copied.dequantize(), weight)
    assert copied.to("meta").packed_scales.device.type == "meta"
    assert scheme.name in repr(layer)


@by_scheme
def test_files_bring_it_back(scheme: QuantScheme) -> None:
    layer = PackedLinear.from_linear(linear_of(), scheme)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    empty = PackedLinear.empty_like(linear_of(seed=1), scheme)
    empty.load_state_dict(stored)
    states = torch.randn(3, 200)
    with torch.no_grad():
        assert torch.equal(empty(states), layer(states))
    for name in ("packed_values", "packed_scales"):
        with pytest.raises((RuntimeError, CheckpointError), match="packed|size mismatch"):
            PackedLinear.empty_like(linear_of(), scheme).load_state_dict(stored | {name: stored[name][:1]})
    other = PackedLinear.empty_like(linear_of(), QuantScheme.parse("int8" if scheme.bits == 4 else "int4"))
    with pytest.raises((RuntimeError, CheckpointError)):
        other.load_state_dict(stored)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_official_storage_there_and_back(bits: int) -> None:
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        official = RowwiseLinear.from_linear(linear_of().to(dtype), bits)
        layer = PackedLinear.from_rowwise(official)
        assert layer.scheme == OFFICIAL[bits]
        again = layer.to_rowwise()
        assert torch.equal(again.weight, official.weight)
        assert torch.equal(again.weight_scale, official.weight_scale)
        assert again.weight_scale.dtype == official.weight_scale.dtype
        assert set(layer.official_tensors()) == {"weight", "weight_scale"}
    grouped = PackedLinear.from_linear(linear_of(), QuantScheme.parse("int4"))
    assert grouped.official_tensors() == {}
    with pytest.raises(ConfigError, match="one scale a row"):
        grouped.to_rowwise()


def test_an_input_of_another_width() -> None:
    layer = PackedLinear.from_linear(linear_of(), QuantScheme.parse("int4"))
    with pytest.raises(ConfigError, match="the input has 199 features, this layer takes 200"):
        layer(torch.randn(3, 199))


@by_scheme
def test_the_operator_keeps_torchs_rules(scheme: QuantScheme) -> None:
    layer = PackedLinear.from_linear(linear_of(), scheme)
    parts = (layer.packed_values, layer.packed_scales, layer.packed_zeros, layer.bias.detach())
    for states in (torch.randn(3, 200), torch.randn(2, 3, 200).bfloat16(), torch.randn(200)):
        arguments = (states, *parts, 72, scheme.bits, scheme.group_size, False)
        tests = ("test_schema", "test_faketensor", "test_autograd_registration")
        torch.library.opcheck(torch.ops.chatglm.packed_linear.default, arguments, test_utils=tests)


def test_export_sees_the_operator() -> None:
    layer = PackedLinear.from_linear(linear_of(), QuantScheme.parse("int4")).requires_grad_(False).eval()
    states = torch.randn(4, 200)
    tokens = torch.export.Dim("tokens", min=2, max=64)
    with torch.no_grad():
        program = torch.export.export(layer, (states,), dynamic_shapes=({0: tokens},))
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert "chatglm.packed_linear.default" in targets
        for count in (4, 50):
            states = torch.randn(count, 200)
            assert torch.equal(program.module()(states), layer(states))


def test_compile_takes_it_whole() -> None:
    layer = PackedLinear.from_linear(linear_of(), QuantScheme.parse("int4")).requires_grad_(False)

    def forward(states: torch.Tensor) -> torch.Tensor:
        return torch.relu(layer(states)) * 2

    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        states = torch.randn(4, 200)
        assert torch.equal(compiled(states), forward(states))


@settings(max_examples=30)
@given(rows=st.integers(1, 70), columns=st.integers(1, 90), shape=st.sampled_from([(), (1,), (5,), (2, 3), (0,)]))
def test_the_embedding(rows: int, columns: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(rows)
    plain = nn.Embedding(rows, columns)
    layer = PackedEmbedding.from_embedding(plain)
    ids = torch.randint(0, rows, shape)
    found = layer(ids)
    assert torch.equal(found, layer.weight[ids])
    torch.testing.assert_close(
        layer.weight, plain.weight.detach(), atol=float(plain.weight.detach().abs().max()) / 250, rtol=0
    )
    assert torch.equal(layer.to_embedding()(ids).detach(), found)
    assert layer.half()(ids).dtype == torch.float16
    for bad in (-1, rows):
        with pytest.raises((CheckpointError, ConfigError, IndexError), match=str(bad)):
            layer(torch.tensor([0, bad]))


def test_the_embedding_reads_no_value_back_from_a_device() -> None:
    """Reading one would make every step wait for a GPU, and keep steps from being recorded."""
    elsewhere = PackedEmbedding(40, 33, device="meta")  # where there are no values to read
    assert elsewhere(torch.zeros(2, 3, dtype=torch.long, device="meta")).shape == (2, 3, 33)
    layer = PackedEmbedding.from_embedding(nn.Embedding(40, 33))
    whole = torch.compile(layer, backend="eager", fullgraph=True)  # runs it on FakeTensors
    ids = torch.tensor([[0, 39], [40, -1]])
    found = whole(ids)
    assert torch.equal(found[0], layer(ids[0]))
    assert found[1].isnan().all(), "an id that is no row is seen later, by the request it belongs to"


@pytest.mark.skipif(not native.available(), reason="no native kernels")
def test_it_is_the_kernels_that_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    linear = native.linear
    monkeypatch.setattr(native, "linear", lambda *arguments: calls.append(1) or linear(*arguments))
    layer = PackedLinear.from_linear(linear_of(), QuantScheme.parse("int4"))
    with torch.no_grad():
        layer(torch.randn(3, 200))
    assert calls == [1]


def test_without_our_kernels_torchs_own_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch has an operator for the scheme it is used, and what it gives is the product."""
    layer = PackedLinear.from_linear(linear_of(64, 48), QuantScheme(4, 32))
    x = torch.randn(3, 64).bfloat16()
    monkeypatch.setattr(packed, "missing", lambda device, dtype: "this is a test")
    monkeypatch.setattr(packed, "say_once", said := [].append)  # type: ignore[var-annotated]
    calls: list[torch_int4.TorchWeight] = []
    linear = torch_int4.linear

    def counted(x: torch.Tensor, weight: torch_int4.TorchWeight, bias: torch.Tensor | None) -> torch.Tensor:
        calls.append(weight)
        return linear(x, weight, bias)

    monkeypatch.setattr(torch_int4, "linear", counted)

    def check() -> None:
        want = nn.functional.linear(x.float(), layer.dequantize(), layer.bias)
        assert (layer(x).float() - want).norm() < 0.02 * want.norm()

    check()
    check()
    assert calls[0] is calls[1], "converted once"
    assert said.__self__ == ["this is a test"]
    other = PackedLinear.from_linear(linear_of(64, 48, seed=1), QuantScheme(4, 32)).state_dict()
    layer.load_state_dict(other)  # written into the same tensors
    check()
    layer.packed_scales.mul_(2)
    check()
    layer.load_state_dict(other, assign=True)
    check()
    assert len({id(weight) for weight in calls}) == 4
    before = len(calls)
    layer.precise = True
    check()
    assert len(calls) == before, "an exact product is not torch's"
