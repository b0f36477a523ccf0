"""Official folders of the first generation load as they are, and are saved bit for bit as they were."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_v1 import golden_file
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from chatglm.errors import CheckpointError, ConfigError
from chatglm.model.adapters import load_prefix
from chatglm.model.config import ChatGLMConfig, read_config
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.v1.network import ChatGLM1ForConditionalGeneration
from chatglm.model.weights import WeightFolder
from chatglm.quant.packed import PackedLinear

QUANTIZED = ["model_int8", "model_int4", "model_int4_qe"]
FOLDERS = ["numerics/a_base", "numerics/o_head128", "numerics/e_prefix", "numerics/e_prefix_proj", "numerics/c_no2d"]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(WeightFolder(folder).items())


def assert_saved(model: Any, source: dict[str, torch.Tensor], target: Path, **options: Any) -> None:
    model.save_pretrained(target, **options)
    found = tensors_of(target)
    assert found.keys() == source.keys()
    for name, tensor in source.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", [*FOLDERS, *(f"quantization/{name}" for name in QUANTIZED)])
def test_loaded_and_saved_is_the_same(name: str, tmp_path: Path) -> None:
    source = golden_file(name)
    model = AutoModel.from_pretrained(source, dtype="auto")
    assert type(model) is ChatGLM1ForConditionalGeneration
    assert_saved(model, tensors_of(source), tmp_path, max_shard_size=50_000)
    again = ChatGLM1ForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    assert_saved(again, tensors_of(source), tmp_path / "again")
    written, official = (json.loads((path / "config.json").read_text()) for path in (tmp_path, source))
    for key in official.keys() - {"transformers_version", "_name_or_path"}:
        assert written[key] == official[key], key


def test_norms_in_float32_beside_float16(tmp_path: Path) -> None:
    tensors = load_file(golden_file("numerics/o_head128") / "model.safetensors")
    for name in [name for name in tensors if "layernorm" in name]:
        tensors[name] = tensors[name].float() + 1e-6  # what float16 could not hold
    shutil.copy(golden_file("numerics/o_head128") / "config.json", tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = AutoModel.from_pretrained(tmp_path, dtype="auto")
    assert model.dtype == torch.float16
    assert model.transformer.final_layernorm.weight.dtype == torch.float32
    assert_saved(model, tensors, tmp_path / "saved")


@pytest.mark.parametrize("name", QUANTIZED)
def test_official_numbers_of_quantized_folders(name: str) -> None:
    folder = golden_file(f"quantization/{name}")
    io = load_file(folder / "io.safetensors")
    kept = AutoModel.from_pretrained(folder, dtype=torch.float32)
    for layer in (module for module in kept.modules() if isinstance(module, PackedLinear)):
        layer.precise = True
    full = ChatGLM1ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, dequantize=True)
    assert full.transformer.layers[0].mlp.dense_4h_to_h.weight.dtype == torch.float32
    with torch.no_grad():
        for model, atol in ((kept, 3e-5), (full, 3e-2)):  # full weights are rounded to the dtype of their scales
            given = {key: io[key] for key in ("input_ids", "position_ids", "attention_mask")}
            torch.testing.assert_close(model(**given).logits, io["logits"], atol=atol, rtol=2e-5)


def test_prefix_of_another_file() -> None:
    folder = golden_file("numerics/e_prefix_proj")
    with_prefix = AutoModel.from_pretrained(folder)
    config = ChatGLM1Config.from_pretrained(folder, pre_seq_len=None, prefix_projection=False)
    bare = ChatGLM1ForConditionalGeneration(config).eval()
    bare.load_state_dict(with_prefix.state_dict(), strict=False)
    load_prefix(bare, folder)
    ids = torch.tensor([[5, 7, 9, 141, 144]])
    with torch.no_grad():
        torch.testing.assert_close(bare(ids).logits, with_prefix(ids).logits)


def test_generations_are_told_apart_by_their_configuration() -> None:
    first = golden_file("numerics/a_base")
    assert type(AutoConfig.from_pretrained(first)) is ChatGLM1Config
    for auto in (AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        assert type(auto.from_pretrained(first)) is ChatGLM1ForConditionalGeneration
    with pytest.raises(ConfigError, match="first-generation"):
        ChatGLMConfig.from_pretrained(first)
    with pytest.raises(CheckpointError, match="first-generation"):
        read_config(first)


def test_official_configurations() -> None:
    for release in json.loads(golden_file("configs/configs.json").read_text())["configs"]:
        config = ChatGLM1Config.from_dict(release["config"])
        assert (config.num_layers, config.head_dim, config.max_position_embeddings) == (28, 128, 2048)
        written = config.to_diff_dict()
        for key in release["config"].keys() - {"transformers_version", "_name_or_path"}:
            assert written[key] == release["config"][key], key


@pytest.mark.parametrize(
    "change", [{"num_layers": 0}, {"position_encoding_2d": "yes"}, {"quantization_bit": 3}, {"hidden_size": 30}]
)
def test_contradictions(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ChatGLM1Config(**({"hidden_size": 64, "num_attention_heads": 4} | change))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    source = golden_file("numerics/c_no2d")
    tensors = load_file(source / "model.safetensors")
    del tensors["transformer.layers.1.mlp.dense_h_to_4h.bias"]
    shutil.copy(source / "config.json", tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"transformer\.layers\.1\.mlp\.dense_h_to_4h\.bias"):
        AutoModel.from_pretrained(tmp_path)
