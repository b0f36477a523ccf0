"""Quantizing a folder on disk: the same numbers as in memory, little memory, and clear refusals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from torch import Tensor

from chatglm.demo import WEIGHTS
from chatglm.errors import CheckpointError, ConfigError
from chatglm.folders.quantize import quantize_folder
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.saving import Source, save_tensors
from chatglm.model.weights import WeightFolder
from chatglm.quant.calibrate import cut, quantize_calibrated
from chatglm.quant.model import quantize_model, quantize_rowwise, scheme_of, unpack_model
from chatglm.quant.scheme import OFFICIAL, QuantScheme

TEXT = "The capital of France is Paris. 你好，世界！ What is your name? 我叫小明。 def f(x): return x\n" * 12


def load_full(folder: Path) -> Any:
    return ChatGLMForConditionalGeneration.from_pretrained(folder, dtype="auto")


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in WeightFolder(folder).items() if "inv_freq" not in name}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A random float16 model in several files, with a tokenizer and what else lies in official folders."""
    folder = tmp_path / "small"
    model = ChatGLMForConditionalGeneration.from_pretrained(golden_file("numerics/a_base"), dtype=torch.float16)
    model.save_pretrained(folder, max_shard_size="200KB")
    (folder / "tokenizer.model").write_bytes(golden_file("tiny_tokenizer/tokenizer.model").read_bytes())
    (folder / "tokenizer_config.json").write_text('{"name_or_path": "chatglm3"}')
    (folder / "modeling_chatglm.py").write_text("# official code\n")
    return folder


@pytest.mark.parametrize("bits", [4, 8])
def test_the_official_format_is_that_of_the_official_formula(bits: int, small: Path, tmp_path: Path) -> None:
    for index, source in enumerate((small, WEIGHTS)):
        target = quantize_folder(source, tmp_path / f"q{index}", f"int{bits}-rowwise", format="official")
        expected: Any = quantize_rowwise(load_full(source), bits)
        expected.save_pretrained(tmp_path / f"m{index}")
        assert_same(stored(target), stored(tmp_path / f"m{index}"))
        settings = json.loads((target / "config.json").read_text())
        assert settings.pop("quantization_bit") == bits
        assert settings == {
            key: value
            for key, value in json.loads((source / "config.json").read_text()).items()
            if key != "quantization_bit"
        }
        loaded: Any = ChatGLMForConditionalGeneration.from_pretrained(target)
        ids = torch.arange(20)[None]
        with torch.inference_mode():
            assert scheme_of(loaded) == OFFICIAL[bits]
            assert torch.equal(loaded(ids).logits, ChatGLMForConditionalGeneration.from_pretrained(target)(ids).logits)


SCHEMES = [
    QuantScheme.parse("int4"), QuantScheme.parse("int4-g128-asym"), QuantScheme.parse("int8"),
    QuantScheme.parse("int4-rowwise"), QuantScheme(4, 64, head_bits=4, embedding_bits=None, skip=("*.layers.1.*",)),
]  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_the_native_format_is_quantize_model(scheme: QuantScheme, small: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    target = quantize_folder(
        small, tmp_path / "q", scheme, max_shard_size="60KB", progress=lambda *step: steps.append(step)
    )
    assert (target / "model.safetensors.index.json").is_file()
    assert_same(stored(target), quantize_model(load_full(small), scheme).state_dict())
    config = json.loads((target / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "chatglm_packed"
    assert QuantScheme.from_dict(config["scheme"]) == scheme
    packed = {name.removesuffix(".packed_values") for name in stored(target) if name.endswith(".packed_values")}
    assert {name for name, *_ in steps} == packed
    assert steps[-1][1:] == (len(packed), len(packed))
    for name in ("tokenizer.model", "tokenizer_config.json", "modeling_chatglm.py", "generation_config.json"):
        assert (target / name).read_bytes() == (small / name).read_bytes()


@pytest.mark.parametrize("name", ["int4", "int4-g64-asym", "int4-rowwise"])
def test_calibrated_as_in_memory(name: str, small: Path, tmp_path: Path) -> None:
    from chatglm.model.tokenizer import ChatGLMTokenizer

    scheme = QuantScheme.parse(name)
    tokenizer = ChatGLMTokenizer.from_pretrained(small)
    ids = cut(tokenizer.encode_text(TEXT), 32, 5, tokenizer.get_prefix_tokens())
    model: Any = load_full(small).float()
    expected = quantize_calibrated(model, ids, scheme, scale_dtype=torch.float16).state_dict()
    target = quantize_folder(
        small, tmp_path / "q", scheme, method="gptq", text=TEXT, sequences=5, length=32, max_shard_size="60KB"
    )
    found = stored(target)
    assert set(found) == set(expected)
    for key, tensor in found.items():
        wanted = expected[key] if "packed" in key else expected[key].half()
        assert torch.equal(tensor, wanted), key


@pytest.mark.parametrize("bits", [4, 8])
def test_a_calibrated_official_folder_holds_the_same_weights(bits: int, small: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "gptq", "text": TEXT, "sequences": 3, "length": 32}
    native = stored(quantize_folder(small, tmp_path / "n", f"int{bits}-rowwise", **options))
    official = quantize_folder(small, tmp_path / "o", f"int{bits}-rowwise", format="official", **options)
    from chatglm.quant.packing import Packed, dequantize

    loaded: Any = ChatGLMForConditionalGeneration.from_pretrained(official, dequantize=True)
    name = "transformer.encoder.layers.3.mlp.dense_h_to_4h"
    weight = loaded.get_submodule(name).weight
    packed = Packed(native[f"{name}.packed_values"], native[f"{name}.packed_scales"], None, *weight.shape)
    exact = dequantize(packed, QuantScheme.parse(f"int{bits}-rowwise"))
    torch.testing.assert_close(weight.float(), exact, rtol=1e-3, atol=0)  # a product rounded to float16
    assert not torch.equal(weight, unpack_model(quantize_rowwise(load_full(small), bits)).get_submodule(name).weight)


def test_searched_scales_need_no_text(small: Path, tmp_path: Path) -> None:
    found = stored(quantize_folder(small, tmp_path / "q", "int4", method="mse"))
    assert_same(found, quantize_calibrated(load_full(small), None, QuantScheme.parse("int4"), "mse").state_dict())


@pytest.mark.parametrize(
    ("scheme", "options", "words"),
    [
        ("int4", {"format": "official"}, "official format cannot hold"),
        ("int4", {"format": "zip"}, "format is 'zip'"),
        ("int3", {}, "int3"),
        (QuantScheme(skip=("lm_head",)), {}, "no layer to quantize is called 'lm_head'"),
        (QuantScheme(skip=("*",)), {}, "all layers are skipped"),
        ("int4", {"method": "gptq"}, "without text"),
        ("int4", {"method": "mse", "text": TEXT}, "calibrating is for 'gptq'"),
        ("int4", {"text": TEXT}, "'nearest' uses no text"),
        ("int4", {"method": "best"}, "best"),
        ("int4", {"method": "gptq", "text": "short", "length": 32}, "at least 30 are needed"),
        ("int4", {"method": "gptq", "text": TEXT, "length": 32, "device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_what_is_refused(scheme: Any, options: dict[str, Any], words: str, small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        quantize_folder(small, tmp_path / "q", scheme, **options)
    assert not (tmp_path / "q").exists()


def test_bad_folders(small: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="source and target are both"):
        quantize_folder(small, small, "int4")
    with pytest.raises(CheckpointError, match="already holds a model"):
        quantize_folder(small, WEIGHTS, "int4")
    with pytest.raises(CheckpointError, match="is not a folder"):
        quantize_folder(tmp_path / "none", tmp_path / "q", "int4")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        quantize_folder(small, tmp_path / "file", "int4")
    for format, scheme in (("official", "int4-rowwise"), ("native", "int4")):
        once = quantize_folder(small, tmp_path / format, scheme, format=format)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="quantized already"):
            quantize_folder(once, tmp_path / "twice", "int8")


def test_weights_that_are_not_finite_and_a_full_disk(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_full(small)
    model.transformer.encoder.layers[2].mlp.dense_4h_to_h.weight.data[1, 1] = float("inf")
    model.save_pretrained(small)
    with pytest.raises(ConfigError, match=r"layers\.2\.mlp\.dense_4h_to_h: .*infinity"):
        quantize_folder(small, tmp_path / "q", "int4")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(CheckpointError, match="1,000 are free"):
        quantize_folder(small, tmp_path / "r", "int4")
    assert not (tmp_path / "q").exists()
    assert not (tmp_path / "r").exists()


MEASURE = """
import re
import torch
from pathlib import Path
from chatglm.folders.quantize import quantize_folder
torch.set_num_threads(1)
def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
quantize_folder({warm!r}, {warm_target!r}, "int4")  # what is imported and allocated once
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
before = memory("VmRSS")
quantize_folder({source!r}, {target!r}, "int4", max_shard_size="16MB", **{options!r})
print(memory("VmHWM") - before)
"""


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is measured with Linux' /proc"
)


def peak(num_layers: int, small: Path, folder: Path, python: list[str], **options: Any) -> int:
    """Bytes by which memory grows while a folder of 17 MB a layer becomes one with files of 16 MB."""
    settings = json.loads((small / "config.json").read_text())
    settings |= {"num_layers": num_layers, "hidden_size": 1024, "ffn_hidden_size": 2048, "kv_channels": 128}
    settings |= {"num_attention_heads": 8, "padded_vocab_size": 2048}
    source = folder / f"layers-{num_layers}"
    write_synthetic(source, settings)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (source / name).write_bytes((small / name).read_bytes())
    program = MEASURE.format(
        warm=str(small), warm_target=f"{source}-warm", source=str(source), target=f"{source}-q", options=options
    )
    done = subprocess.run([*python, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


@needs_proc
def test_memory_holds_one_matrix_and_a_file(small: Path, tmp_path: Path, python: list[str]) -> None:
    found = peak(7, small, tmp_path, python)
    assert WeightFolder(tmp_path / "layers-7").num_bytes > 120e6
    assert 5e6 < found < 90e6, found  # 250 MB as float32


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("method", ["mse", "gptq"])
def test_memory_does_not_grow_with_the_layers(method: str, small: Path, tmp_path: Path) -> None:
    options = {"text": TEXT, "sequences": 4, "length": 64} if method == "gptq" else {}
    # glibc would keep freed matrices of up to 32 MB, how many depends on what was freed before: up to 100 MB of noise.
    python = ["env", "MALLOC_MMAP_THRESHOLD_=1000000", sys.executable]
    few, many = (peak(layers, small, tmp_path, python, method=method, **options) for layers in (4, 12))
    assert many - few < 70e6, (few, many)  # eight layers have 139 MB, 278 MB as float32


def write_synthetic(folder: Path, settings: dict[str, Any]) -> None:
    from chatglm.folders.describe import full_shapes
    from chatglm.model.config import ChatGLMConfig

    shapes = full_shapes(ChatGLMConfig.from_dict(dict(settings)))
    noise = torch.randn(2**23, generator=torch.Generator().manual_seed(0)).half()

    def source(shape: tuple[int, ...]) -> Source:
        count = int(torch.Size(shape).numel())
        return Source(shape, torch.float16, lambda: noise[:count].view(shape))

    save_tensors(folder, {name: source(shape) for name, shape in shapes.items()})
    (folder / "config.json").write_text(json.dumps(settings))
