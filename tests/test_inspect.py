"""`chatglm info` and `chatglm convert`: facts from headers, and folders rewritten."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import load_file
from transformers import GlmForCausalLM

from chatglm.errors import CheckpointError
from chatglm.inspect import convert, describe, guess_variant, info_text, size_text
from chatglm.model.config import ChatGLMConfig

OFFICIAL: dict[str, Any] = {
    "add_qkv_bias": True, "multi_query_attention": True, "multi_query_group_num": 2, "num_layers": 28,
}  # fmt: skip


def test_a_full_and_a_quantized_folder() -> None:
    info = describe(golden_file("numerics/a_base"))
    stored = load_file(golden_file("numerics/a_base") / "model.safetensors")
    count = sum(tensor.numel() for name, tensor in stored.items() if "inv_freq" not in name)
    assert info.num_parameters == count
    assert info.weight_bytes("float32") == 4 * count
    assert info.weight_bytes("int4") < info.weight_bytes("int8") < info.weight_bytes("bfloat16") == 2 * count
    assert info.cache_bytes_per_token == 4 * 2 * 2 * 16 * 2
    assert info.dtypes == {"float32": len(stored)}
    small = describe(golden_file("quantization/model_int4"))
    assert small.quantization_bit == 4
    linears = sum(
        2 * t.numel() for n, t in load_file(golden_file("quantization/model_int4") / "model.safetensors").items()
        if t.dtype == torch.int8
    )  # fmt: skip
    assert small.linear_parameters == linears
    # What is stored is what int4 is said to need, but for inv_freq and the header of the file.
    assert 0 < small.bytes_on_disk - small.weight_bytes("int4") < 64 + 4096


def test_the_six_billion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The official sizes: 6,243,584,000 parameters, 28 KiB of cache a token, 12.49, 6.78 and 3.92 GB of weights."""
    from chatglm.inspect import FolderInfo, full_shapes

    config = ChatGLMConfig(seq_length=8192, **OFFICIAL)
    shapes = full_shapes(config)
    total = sum(torch.Size(shape).numel() for name, shape in shapes.items() if "inv_freq" not in name)
    linears = {n: s for n, s in shapes.items() if n.endswith((".weight",)) and ("dense" in n or "query_key" in n)}
    info = FolderInfo(
        folder=tmp_path, variant="", reason="", config=config, num_parameters=total, quantization_bit=0, dtypes={},
        files={}, linear_parameters=sum(torch.Size(s).numel() for s in linears.values()),
        linear_rows=sum(s[0] for s in linears.values()),
    )  # fmt: skip
    assert total == 6_243_584_000
    assert info.linear_parameters == 5_710_544_896
    assert info.cache_bytes_per_token == 28 * 1024
    assert size_text(info.weight_bytes("bfloat16")) == "12.49 GB"
    assert size_text(info.weight_bytes("int8")) == "6.78 GB"
    assert size_text(info.weight_bytes("int4")) == "3.92 GB"


@pytest.mark.parametrize(
    ("name", "settings", "variant"),
    [
        ("chatglm3-6b", {"seq_length": 8192}, "ChatGLM3-6B"),
        ("chatglm3-6b-base", {"seq_length": 8192}, "ChatGLM3-6B-Base"),
        ("chatglm3-6b-32k", {"seq_length": 32768, "rope_ratio": 50, "rope_ratio_meaning": "base"}, "ChatGLM3-6B-32K"),
        ("x", {"seq_length": 131072, "rope_ratio": 500, "rope_ratio_meaning": "base"}, "ChatGLM3-6B-128K"),
        ("x", {"seq_length": 32768}, "ChatGLM2-6B"),
        ("x", {"seq_length": 32768, "quantization_bit": 4}, "ChatGLM2-6B-int4"),
        ("x", {"seq_length": 32768, "rope_ratio": 16, "rope_ratio_meaning": "position"}, "ChatGLM2-6B-32K"),
        ("x", {"seq_length": 4096}, "ChatGLM2/3-6B"),
    ],
)
def test_variants(name: str, settings: dict[str, Any], variant: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    ChatGLMConfig(**OFFICIAL, **settings).save_pretrained(folder)
    if name != "x":  # as released: the tokenizer of the chat model names the base model
        (folder / "tokenizer_config.json").write_text('{"name_or_path": "THUDM/chatglm3-6b-base"}')
    found, reason = guess_variant(folder, ChatGLMConfig(**OFFICIAL, **settings))
    assert found == variant
    assert reason


def test_the_text_names_what_people_ask_for() -> None:
    text = info_text(golden_file("quantization/model_int4"))
    for words in ("parameters", "729,888", "row-wise INT4", "128 tokens", "model.safetensors", "int4", "a token"):
        assert words in text
    assert all(len(line.rstrip()) == len(line) for line in text.splitlines())


@pytest.mark.parametrize("damage", ["nothing", "file", "truncated"])
def test_what_is_no_model(damage: str, tmp_path: Path) -> None:
    target = tmp_path / "m"
    if damage == "file":
        target.write_text("x")
    elif damage == "truncated":
        shutil.copytree(golden_file("numerics/a_base"), target, copy_function=shutil.copyfile)
        (target / "model.safetensors").write_bytes((target / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="truncated" if damage == "truncated" else "not a folder"):
        describe(target)


@pytest.mark.parametrize("source", ["numerics/a_base", "quantization/model_int4"])
def test_convert_there_and_back(source: str, tmp_path: Path) -> None:
    folder = golden_file(source)
    convert(folder, tmp_path / "glm", to="glm")
    GlmForCausalLM.from_pretrained(tmp_path / "glm")
    convert(tmp_path / "glm", tmp_path / "back", to="official")
    if "quantization" not in source:
        assert (tmp_path / "back/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
        assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads(
            (folder / "config.json").read_text()
        )


def test_convert_overwrites_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="already holds a model"):
        convert(golden_file("numerics/a_base"), tmp_path, to="glm")


def test_sizes() -> None:
    assert [size_text(n) for n in (7, 28_672, 12_487_168_064)] == ["7 bytes", "28.7 KB", "12.49 GB"]
