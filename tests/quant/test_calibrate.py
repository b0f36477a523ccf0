"""Error-minimising rounding: better than rounding to nearest where it must be, and nothing else changed."""

import copy
import math
from itertools import islice
from typing import Any

import pytest
import torch
from golden_data import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chatglm.demo import WEIGHTS
from chatglm.demo.conversation import stream
from chatglm.demo.encoding import Encoder, Example
from chatglm.errors import ConfigError
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant import packing
from chatglm.quant.calibrate import Calibration, calibrate_layers, cut, quantize_calibrated
from chatglm.quant.model import quantize_model
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_embedding import PackedEmbedding
from chatglm.quant.rounding import restore, round_weight
from chatglm.quant.scheme import QuantScheme

SCHEMES = ("int4", "int4-g128", "int4-asym", "int4-rowwise", "int8", "int8-g32")


def calibrate(
    model: nn.Module, ids: Any, scheme: QuantScheme, method: Any = "gptq", progress: Any = None, **options: Any
) -> dict[str, Any]:
    """The numbers of all layers at once."""
    return dict(calibrate_layers(model, ids, scheme, Calibration(method, **options), progress))


def random_case(seed: int, rows: int = 24, columns: int = 100, samples: int = 400) -> tuple[Tensor, Tensor]:
    """A weight, and inputs that are correlated and have two channels that stand out."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(samples, columns, generator=generator) @ mixing
    inputs[:, :2] *= 10
    return torch.randn(rows, columns, generator=generator) * 0.05, inputs


def output_error(numbers: Any, weight: Tensor, inputs: Tensor) -> float:
    return float(((restore(numbers, weight.shape[1]) - weight) @ inputs.T).norm())


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("seed", range(4))
def test_the_output_error_is_smaller_than_that_of_rounding_to_nearest(name: str, seed: int) -> None:
    scheme = QuantScheme.parse(name)
    weight, inputs = random_case(seed)
    hessian = inputs.T @ inputs
    plain = output_error(round_weight(weight, scheme, "nearest"), weight, inputs)
    assert output_error(round_weight(weight, scheme, "gptq", hessian), weight, inputs) < 0.7 * plain
    assert output_error(round_weight(weight, scheme, "gptq", hessian, act_order=True), weight, inputs) < 0.7 * plain


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(SCHEMES),
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 20),
    columns=st.integers(1, 75).map(lambda half: 2 * half),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    size=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_searched_scales_never_lose_and_everything_fits_the_layout(
    name: str, seed: int, rows: int, columns: int, dtype: torch.dtype, size: float
) -> None:
    scheme = QuantScheme.parse(name)
    weight, inputs = random_case(seed, rows, columns, 30)
    weight = (weight * size).to(dtype)
    hessian = inputs.T @ inputs
    plain = round_weight(weight, scheme, "nearest")
    errors = {}
    for method in ("mse", "gptq"):
        numbers = round_weight(weight, scheme, method, hessian if method == "gptq" else None)  # type: ignore[arg-type]
        packed = packing.pack(*numbers, columns, scheme)  # checks every shape and dtype
        limit = (0, 15) if numbers[2] is not None else (-(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1)
        assert limit[0] <= int(numbers[0].min()) <= int(numbers[0].max()) <= limit[1]
        assert torch.equal(packing.dequantize(packed, scheme), restore(numbers, columns))
        errors[method] = float((restore(numbers, columns) - weight.float()).norm())
    assert errors["mse"] <= (1 + 1e-5) * float((restore(plain, columns) - weight.float()).norm())


def test_a_hessian_that_says_nothing_is_rounding_one_by_one() -> None:
    """With independent inputs no column can make up for another: GPTQ is then the search for scales."""
    weight, _ = random_case(3, columns=64)
    scheme = QuantScheme.parse("int4")
    for hessian in (torch.eye(64), torch.zeros(64, 64)):
        found = round_weight(weight, scheme, "gptq", hessian)
        expected = round_weight(weight, scheme, "mse")
        for one, other in zip(found[:2], expected[:2], strict=True):
            assert torch.equal(one, other)


def test_rows_of_zeros_and_inputs_that_never_come() -> None:
    weight, inputs = random_case(5)
    weight[3] = 0
    inputs[:, 7] = 0
    inputs[:, 9] = inputs[:, 8]  # and one that repeats another
    for name in SCHEMES:
        numbers = round_weight(weight, QuantScheme.parse(name), "gptq", inputs.T @ inputs, damping=0)
        found = restore(numbers, 100)
        assert torch.isfinite(found).all()
        assert not found[3].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "best"}, "no rounding method 'best'; there are gptq, mse, nearest"),
        ({"method": "gptq"}, "needs the inputs"),
        ({"method": "gptq", "hessian": torch.eye(3)}, r"the Hessian is \[3, 3\]"),
        ({"method": "gptq", "hessian": torch.full((8, 8), math.nan)}, "overflows"),
        ({"method": "gptq", "hessian": torch.eye(8), "damping": 2.0}, "damping is 2.0"),
        ({"method": "mse", "act_order": True}, "act_order is for method 'gptq'"),
        ({"weight": torch.full((2, 8), math.inf)}, "NaN or infinity"),
        ({"weight": torch.ones(8)}, "matrix"),
        ({"weight": torch.full((2, 8), 1e7)}, "does not fit"),
    ],
)
def test_what_cannot_be_rounded(change: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"weight": torch.ones(2, 8), "scheme": QuantScheme.parse("int4")} | change
    with pytest.raises(ConfigError, match=words):
        round_weight(**arguments)


def test_text_is_cut_over_its_whole_length() -> None:
    found = cut(range(100), length=12, limit=4, prefix=(1000, 1001))
    assert [sequence.tolist()[2] for sequence in found] == [0, 20, 50, 70]
    assert all(sequence.tolist()[:2] == [1000, 1001] and len(sequence) == 12 for sequence in found)
    assert len(cut(range(100), length=10, limit=None)) == 10
    for ids, length, limit, words in (
        ([1] * 5, 6, 4, "has 5 tokens"),
        ([1] * 5, 2, 4, "hold no text"),
        ([1] * 5, 5, 0, "hold no"),
    ):
        with pytest.raises(ConfigError, match=words):
            cut(ids, length, limit, prefix=(0, 0) if length == 2 else ())


@pytest.fixture(scope="module")
def small() -> Any:
    return ChatGLMForConditionalGeneration.from_pretrained(golden_file("numerics/a_base"), dtype=torch.float32)


def random_ids(seed: int, count: int = 6, length: int = 48) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 1500, (length,), generator=generator) for _ in range(count)]


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_the_same_afterwards(small: Any, training: bool) -> None:
    small.train(training)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    steps: list[tuple[str, int, int]] = []
    found = calibrate(small, random_ids(0), QuantScheme.parse("int4"), progress=lambda *step: steps.append(step))
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    assert small.training == training
    assert len(found) == 4 * 4 + 1 == steps[-1][1] == steps[-1][2]
    assert [name for name, *_ in steps] == list(found)
    small.eval()


def test_each_layer_is_rounded_for_what_the_rounded_ones_before_give(small: Any) -> None:
    """The second layer's first linear, rounded by hand for the inputs it gets behind a rounded first layer."""
    scheme, ids = QuantScheme(4, head_bits=None, embedding_bits=None), random_ids(1)
    found = calibrate(small, ids, scheme)
    model = copy.deepcopy(small)
    for name, numbers in found.items():
        if ".layers.0." in name:
            linear = model.get_submodule(name)
            linear.weight.data = restore(numbers, linear.in_features)
    name = "transformer.encoder.layers.1.self_attention.query_key_value"
    inputs: list[Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
    with torch.inference_mode():
        for row in ids:
            model(input_ids=row[None])
    rows = torch.cat(inputs)
    expected = round_weight(small.get_submodule(name).weight.detach(), scheme, "gptq", rows.T @ rows)
    same = (expected[0] == found[name][0]).float().mean()
    assert same > 0.99  # sums in another order may tip a few numbers over


def test_a_model_is_quantized_in_place(small: Any) -> None:
    for name, options in (("int4", {}), ("int4-rowwise", {}), ("int4-g64-asym", {"act_order": True})):
        scheme = QuantScheme.parse(name)
        numbers = calibrate(small, random_ids(2), scheme, **options)
        model = quantize_calibrated(copy.deepcopy(small), random_ids(2), scheme, **options)
        plain = quantize_model(copy.deepcopy(small), scheme)
        assert {n: p.shape for n, p in model.state_dict().items()} == {
            n: p.shape for n, p in plain.state_dict().items()
        }
        assert model.config.to_dict() == plain.config.to_dict()
        for layer, rounded in numbers.items():
            module = model.get_submodule(layer)
            assert isinstance(module, PackedLinear)
            assert torch.equal(module.dequantize(), restore(rounded, module.in_features))
        assert isinstance(model.transformer.embedding.word_embeddings, PackedEmbedding) == (scheme.embedding_bits == 8)


def test_the_nearest_method_is_plain_quantization(small: Any) -> None:
    for name in SCHEMES:
        scheme = QuantScheme.parse(name)
        model = quantize_calibrated(copy.deepcopy(small), None, scheme, "nearest")
        plain = quantize_model(copy.deepcopy(small), scheme)
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in plain.state_dict().items())


def test_layers_to_skip_stay(small: Any) -> None:
    scheme = QuantScheme(skip=("*.layers.0.*", "*output_layer"), embedding_bits=None)
    found = calibrate(small, None, scheme, "mse")
    assert len(found) == 12
    assert not any(".layers.0." in name or "output" in name for name in found)
    with pytest.raises(ConfigError, match="nothing is left"):
        calibrate(small, None, QuantScheme(skip=("*",)), "mse")


def test_what_cannot_be_calibrated(small: Any) -> None:
    scheme = QuantScheme.parse("int4")
    with pytest.raises(ConfigError, match="needs text"):
        calibrate(small, None, scheme)
    with pytest.raises(ConfigError, match="no rounding method"):
        calibrate(small, None, scheme, "other")
    with pytest.raises(ConfigError, match="nothing to quantize"):
        calibrate(nn.Sequential(nn.Linear(2, 2)), None, scheme, "mse")
    quantized = quantize_model(copy.deepcopy(small), scheme)
    with pytest.raises(ConfigError, match="PackedLinear"):
        calibrate(quantized, None, scheme, "mse")
    with pytest.raises(ConfigError, match="already quantized"):
        quantize_calibrated(quantized, None, scheme, "mse")
    broken = copy.deepcopy(small)
    broken.transformer.encoder.layers[2].mlp.dense_4h_to_h.weight.data[0, 0] = math.nan
    with pytest.raises(ConfigError, match=r"layers\.2\.mlp\.dense_4h_to_h: .*NaN"):
        calibrate(broken, None, scheme, "mse")


def test_layers_are_loaded_and_let_go_in_turn(small: Any) -> None:
    calls: list[tuple[str, str]] = []
    calibration = Calibration(
        "gptq",
        load=lambda name, _: calls.append(("load", name)),
        unload=lambda name, _: calls.append(("unload", name)),
    )
    for name, _ in calibrate_layers(small, random_ids(4, 2, 16), QuantScheme.parse("int4"), calibration):
        assert name.startswith(calls[-1][1])
        assert calls[-1][0] == "load" or name.endswith("output_layer")
    layers = [f"transformer.encoder.layers.{index}" for index in range(4)] + ["transformer.output_layer"]
    assert calls == [(what, name) for name in layers for what in ("load", "unload")]


def losses(model: Any, examples: list[Example]) -> Tensor:
    """-log p of every token the model was trained to say."""
    found = []
    with torch.inference_mode():
        for example in examples:
            logits = model(input_ids=torch.tensor([example.ids])).logits[0, :-1]
            losses = nn.functional.cross_entropy(logits, torch.tensor(example.ids[1:]), reduction="none")
            found.append(losses[torch.tensor(example.learned[1:])])
    return torch.cat(found)


@pytest.mark.slow
def test_the_embedded_model_loses_less() -> None:
    """Perplexity of answers to held-out phrasings: calibrated 4 bits a row against plain ones."""
    encoder = Encoder(WEIGHTS / "tokenizer.model")
    model = ChatGLMForConditionalGeneration.from_pretrained(WEIGHTS, dtype=torch.float32)
    texts = [encoder.example(one) for one in islice(stream(5, "train"), 15)]
    ids = [torch.tensor(text.ids[:1024]) for text in texts]
    held_out = [encoder.example(one) for one in islice(stream(77, "phrasing"), 60)]
    scheme, found = QuantScheme.parse("int4-rowwise"), {}
    for method in ("nearest", "gptq"):
        quantized: Any = quantize_calibrated(copy.deepcopy(model), ids, scheme, method)  # type: ignore[arg-type]
        for module in quantized.modules():
            if isinstance(module, PackedLinear):
                module.precise = True
        found[method] = float(losses(quantized, held_out).mean())
    assert found["gptq"] < found["nearest"]
