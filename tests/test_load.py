"""load(): from a name or folder to a model and tokenizer, with defaults that fit the machine."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import load_file, save_file
from transformers.initialization import no_init_weights

from chatglm.errors import CheckpointError, ConfigError
from chatglm.folders.describe import describe
from chatglm.loading import best_device, default_dtype, demo_folder, load, parse_device
from chatglm.model.config import read_config
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.model import scheme_of, scheme_of_layer
from chatglm.quant.packed import PackedLinear
from chatglm.quant.scheme import QuantScheme

IDS = torch.arange(30, 44)[None]
LOADING = importlib.import_module("chatglm.loading")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny float16 model with a tokenizer, as an official folder."""
    target = tmp_path / "model"
    target.mkdir()
    source = golden_file("numerics/a_base")
    tensors = {name: tensor.half() for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16", "name": "chatglm3"}))
    (target / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "THUDM/chatglm3-6b"}))
    shutil.copyfile(demo_folder() / "tokenizer.model", target / "tokenizer.model")
    return target


def test_nothing_given_is_the_embedded_model() -> None:
    model, tokenizer = load(device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer("你好")["input_ids"]
    assert model.config.name_or_path == str(demo_folder())


def test_a_folder_as_text_or_path_with_every_dtype(folder: Path) -> None:
    reference = ChatGLMForConditionalGeneration.from_pretrained(folder)(IDS).logits.float()
    for name, dtype, expected in (
        (str(folder), None, torch.float32),
        (folder, "auto", torch.float16),
        (folder, "bfloat16", torch.bfloat16),
        (folder, torch.float16, torch.float16),
    ):
        model, _ = load(name, dtype=dtype, device="cpu")
        assert model.dtype == expected
        torch.testing.assert_close(model(IDS).logits.float(), reference, atol=0.6, rtol=0.05)
    assert torch.equal(load(folder, dtype="auto", device="cpu")[0](IDS).logits.float(), reference)


def test_the_default_dtype_fits_device_and_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_dtype(folder, "cuda") == torch.float16
    assert default_dtype(folder, "cpu") == torch.float32
    monkeypatch.setattr(LOADING, "_SMALL", 0)
    monkeypatch.setattr(LOADING, "_has_native_bfloat16", lambda: True)
    assert default_dtype(folder, "cpu") == torch.bfloat16
    monkeypatch.setattr(LOADING, "_has_native_bfloat16", lambda: False)
    assert default_dtype(folder, "cpu") == torch.float32
    monkeypatch.setattr(LOADING, "available_memory", lambda: 1_000_000)
    assert default_dtype(folder, "cpu") == torch.bfloat16
    assert default_dtype(golden_file("numerics/a_base"), "cpu") == torch.float32


@pytest.mark.parametrize("quantize", [4, 8, "4", "int8", "INT4", "int4-g64-asym", "int4-rowwise", "int8-rowwise"])
def test_quantizing_uses_the_weights_as_stored(folder: Path, quantize: int | str) -> None:
    model, _ = load(folder, quantize=quantize, device="cpu")
    scheme = QuantScheme.parse(quantize)
    assert scheme_of(model) == scheme
    assert model.config.quantization_bit == (scheme.bits if scheme.is_official else 0)
    assert model.dtype == torch.float32  # what is not quantized
    stored = ChatGLMForConditionalGeneration.from_pretrained(folder)
    name = "transformer.encoder.layers.2.mlp.dense_h_to_4h"
    wanted = scheme_of_layer(name, scheme)
    assert wanted is not None
    expected = PackedLinear.from_linear(stored.get_submodule(name), wanted)
    assert torch.equal(model.get_submodule(name).dequantize(), expected.dequantize())


@pytest.mark.parametrize("scheme", ["int4", "int8", "int4-g128-asym", "int4-rowwise", "int8-rowwise"])
def test_quantize_save_load_is_the_same_model(folder: Path, tmp_path: Path, scheme: str) -> None:
    model, _ = load(folder, quantize=scheme, dtype="auto", device="cpu")
    model.save_pretrained(tmp_path / "small", max_shard_size="100KB")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(folder / name, tmp_path / "small" / name)
    again, _ = load(tmp_path / "small", dtype="auto", device="cpu")
    assert scheme_of(again) == scheme_of(model) == QuantScheme.parse(scheme)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    full, _ = load(tmp_path / "small", dtype="auto", device="cpu", dequantize=True)
    assert scheme_of(full) is None
    bits = QuantScheme.parse(scheme).bits
    stays, _ = load(tmp_path / "small", quantize=bits, dtype="auto", device="cpu")
    assert scheme_of(stays) == scheme_of(model)
    for layer in (precise for precise in model.modules() if isinstance(precise, PackedLinear)):
        layer.precise = True
    torch.testing.assert_close(full(IDS).logits, model(IDS).logits, atol=2e-2, rtol=2e-2)
    with pytest.raises(ConfigError, match="already quantized"):
        load(tmp_path / "small", quantize=12 - bits, device="cpu")


def write_lora(target: Path, base: str) -> Path:
    target.mkdir()
    torch.manual_seed(5)
    tensors = {}
    for layer in range(4):
        name = f"base_model.model.transformer.encoder.layers.{layer}.self_attention.query_key_value."
        tensors |= {f"{name}lora_A.weight": torch.randn(2, 64), f"{name}lora_B.weight": torch.randn(128, 2)}
    torch.save(tensors, target / "adapter_model.bin")
    options: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query_key_value"]}
    (target / "adapter_config.json").write_text(
        json.dumps(options | {"task_type": "CAUSAL_LM", "base_model_name_or_path": base})
    )
    return target


def test_adapters_attach_merge_and_lead_to_their_base(folder: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", base=str(folder))
    plain = load(folder, device="cpu")[0](IDS).logits
    attached, _ = load(folder, adapter=lora, device="cpu")
    merged, _ = load(folder, adapter=lora, merge_adapter=True, device="cpu")
    itself, tokenizer = load(lora, device="cpu")
    expected = attached(IDS).logits
    assert not torch.allclose(expected, plain, atol=0.1)
    torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(itself(IDS).logits, expected)
    assert tokenizer("a")["input_ids"]
    small, _ = load(folder, adapter=lora, quantize=8, device="cpu")
    torch.testing.assert_close(small(IDS).logits, expected, atol=2.0, rtol=0.2)
    both, _ = load(folder, adapter=lora, merge_adapter=True, quantize=8, device="cpu")
    assert scheme_of(both) == QuantScheme.parse(8)


def test_an_adapter_whose_base_is_gone(folder: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", base="/models/chatglm3-6b")
    with pytest.raises(CheckpointError, match="/models/chatglm3-6b.*adapter="):
        load(lora, device="cpu")
    assert load(folder, adapter=lora, device="cpu")[0](IDS).logits.isfinite().all()


def test_prefix(folder: Path, tmp_path: Path) -> None:
    save_file({"transformer.prefix_encoder.embedding.weight": torch.randn(6, 256)}, tmp_path / "p.safetensors")
    model, _ = load(folder, prefix=tmp_path / "p.safetensors", device="cpu")
    assert model.config.pre_seq_len == 6


def test_the_tokenizer_may_lie_elsewhere(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.model"):
        load(folder, device="cpu")
    assert load(folder, tokenizer=demo_folder(), device="cpu")[1]("a")["input_ids"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": 5}, "quantize is 5"),
        ({"quantize": "fp4"}, "quantize is 'fp4'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"dtype": "half a byte"}, "half a byte"),
        ({"device": "cpu", "device_map": "auto"}, "device_map"),
        ({"quantize": 4, "device_map": "auto"}, "device_map"),
        ({"device": "foo"}, r"device is 'foo'; it must be one that is here: cpu"),
        ({"device": ""}, "device is ''"),
        ({"device": "cpu:99"}, "device is 'cpu:99'"),
        ({"device": "cuda:99"}, "device is 'cuda:99'"),
        ({"device": "meta"}, "device is 'meta'"),
        ({"device": 3.5}, "device is '3.5'"),
    ],
)
def test_contradictory_options(folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(folder, **options)


def test_unknown_options_are_errors(folder: Path) -> None:
    with pytest.raises(TypeError, match="quantise"):
        load(folder, quantise=4)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no config.json; found model.safetensors"),
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"model_type": "chatglm", "torch_dtype": "foo"}', "torch_dtype 'foo'; it must be one like 'float16'"),
        ('{"model_type": "llama"}', "'llama'"),
        ('{"model_type": "glm"}', r"`chatglm convert '\S+/a model' '\S+/a model-official' --to official`"),
        ('{"model_type": "chatglm", "inner_hidden_size": 16384}', "first-generation"),
    ],
)
def test_folders_of_another_kind(tmp_path: Path, config: str | None, words: str) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=words):
        read_config(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("content", "words"), [("{", "is not valid JSON"), ("[]", "holds a JSON list")])
def test_damaged_settings_are_named(folder: Path, name: str, content: str, words: str) -> None:
    load(folder, device="cpu")
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name} {words}"):
        load(folder, device="cpu")
    with pytest.raises(CheckpointError, match=f"{name} {words}"):
        describe(folder)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_an_accelerator_that_is_not_here(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device is '{kind}'; it must be one that is here: cpu$"):
        parse_device(kind)
    assert parse_device("cpu") == parse_device(None) == torch.device("cpu")


def test_every_device_that_is_here_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [str(parse_device(name)) for name in ("cuda", "cuda:1", "cpu")] == ["cuda", "cuda:1", "cpu"]
    with pytest.raises(ConfigError, match="cpu, cuda:0, cuda:1"):
        parse_device("cuda:2")


def test_rope_ratio_can_be_stated(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_ratio": 16}))
    with pytest.raises(ConfigError, match="rope_ratio_meaning"):
        load(folder, device="cpu")
    for meaning in ("base", "position"):
        model, _ = load(folder, rope_ratio_meaning=meaning, device="cpu")  # type: ignore[arg-type]
        assert model.config.rope_ratio_meaning == meaning


def test_best_device_is_one_torch_knows() -> None:
    assert torch.device(best_device()).type in ("cpu", "cuda", "mps")


PEAK = """
import re, sys
from chatglm.model.network import ChatGLMForConditionalGeneration
import torch
torch.set_num_threads(1)
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
model = ChatGLMForConditionalGeneration.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
touched = sum(float(p.detach().flatten()[::1024].float().sum()) for p in model.parameters())  # every page
assert touched == touched
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("stored", "dtype", "copies"),
    [
        pytest.param("bfloat16", "bfloat16", 1.0, marks=pytest.mark.slow),
        ("bfloat16", "float32", 2.0),
    ],
)
def test_loading_needs_the_memory_of_the_result(
    tmp_path: Path, stored: str, dtype: str, copies: float, python: list[str]
) -> None:
    """190 MB of weights: neither a second copy nor, when cast, the mapped file beside the result."""
    from chatglm.model.config import ChatGLMConfig

    config = ChatGLMConfig(
        num_layers=4, hidden_size=1024, ffn_hidden_size=4096, kv_channels=64, num_attention_heads=16,
        padded_vocab_size=16384, multi_query_attention=True, multi_query_group_num=2, add_qkv_bias=True,
    )  # fmt: skip
    with no_init_weights():
        model = ChatGLMForConditionalGeneration(config).to(getattr(torch, stored))
    for parameter in model.parameters():
        parameter.data.zero_()
    model.save_pretrained(tmp_path, max_shard_size="50MB")
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert size > 180e6
    del model
    done = subprocess.run([*python, "-c", PEAK, str(tmp_path), dtype], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    beside = int(done.stdout) - copies * size  # a shard on its way, and what loading imports
    assert beside < 0.8 * size
