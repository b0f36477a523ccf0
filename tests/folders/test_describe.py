"""`chatglm info` and `chatglm convert`: facts from headers, and folders rewritten."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import load_file
from transformers import GlmForCausalLM

from chatglm.cli import main
from chatglm.errors import ChatGLMError, CheckpointError, ConfigError
from chatglm.folders.convert import convert
from chatglm.folders.describe import FolderInfo, describe, full_shapes, guess_variant, info_text, size_text
from chatglm.folders.quantize import quantize_folder
from chatglm.loading import demo_folder
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.weights import WeightFolder

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
    assert small.num_parameters == count_full(golden_file("quantization/model_int4"))


def count_full(folder: Path) -> int:
    """Parameters of a folder's model, counted in one with full weights."""
    model = ChatGLMForConditionalGeneration.from_pretrained(folder, dequantize=True)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_the_memory_told_is_that_of_what_quantize_writes(precision: str, tmp_path: Path) -> None:
    written = WeightFolder(quantize_folder(demo_folder(), tmp_path / "small", precision))
    assert describe(demo_folder()).weight_bytes(precision) == written.num_bytes


def test_the_six_billion(tmp_path: Path) -> None:
    """The official sizes: 6,243,584,000 parameters, 28 KiB of cache a token, 12.49 GB of weights."""
    config = ChatGLMConfig(seq_length=8192, **OFFICIAL)
    total = sum(torch.Size(shape).numel() for name, shape in full_shapes(config).items() if "inv_freq" not in name)
    info = FolderInfo(
        folder=tmp_path, variant="", reason="", config=config, num_parameters=total, quantization_bit=0, scheme=None,
        dtypes={}, files={},
    )  # fmt: skip
    assert total == 6_243_584_000
    assert info.cache_bytes_per_token == 28 * 1024
    assert size_text(info.weight_bytes("bfloat16")) == "12.49 GB"
    assert size_text(info.weight_bytes("int8")) == "6.25 GB"
    assert size_text(info.weight_bytes("int4")) == "3.75 GB"


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
    assert re.search("tokenizer +missing: copy tokenizer.model there", text)
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
    with pytest.raises(
        ChatGLMError,
        match="truncated" if damage == "truncated" else "is a file" if damage == "file" else "no folder",
    ):
        describe(target)


def test_a_hub_name_is_looked_up_as_by_chat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(repository: str, revision: str | None, patterns: list[str]) -> str:
        asked.append(repository)
        return str(demo_folder())

    monkeypatch.setattr("chatglm.hub._from_modelscope", download)
    assert main(["info", "chatglm3-6b", "--hub", "modelscope"]) == 0
    assert set(asked) == {"ZhipuAI/chatglm3-6b"}


@pytest.mark.parametrize("command", [["info"], ["convert", "DST", "--to", "glm"], ["chat", "--greedy", "x", "--model"]])
def test_a_gguf_file_is_told_from_a_model(command: list[str], tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(40))
    arguments = [command[0], str(file), *command[1:]] if command[0] != "chat" else [*command, str(file)]
    assert main(arguments) != 0
    assert "is a GGUF file" in capsys.readouterr().err


def with_tokenizer(source: str, target: Path) -> Path:
    shutil.copytree(golden_file(source), target, copy_function=shutil.copyfile)
    shutil.copyfile(demo_folder() / "tokenizer.model", target / "tokenizer.model")
    (target / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "THUDM/chatglm3-6b"}))
    return target


@pytest.mark.parametrize("source", ["numerics/a_base", "quantization/model_int4"])
def test_convert_there_and_back(source: str, tmp_path: Path) -> None:
    folder = with_tokenizer(source, tmp_path / "official")
    convert(folder, tmp_path / "glm", to="glm")
    GlmForCausalLM.from_pretrained(tmp_path / "glm")
    convert(tmp_path / "glm", tmp_path / "back", to="official")
    if "quantization" not in source:
        assert (tmp_path / "back/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
        assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads(
            (folder / "config.json").read_text()
        )


@pytest.mark.parametrize("at", ["before", "while writing"])
@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_a_full_disk_leaves_nothing_behind(command: str, at: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Neither a folder that was made for the result nor its parents, and nothing new in one that was there."""
    folder = with_tokenizer("numerics/a_base", tmp_path / "official")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "note.txt").write_text("mine")
    if at == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    else:
        monkeypatch.setattr("shutil.copyfile", Mock(side_effect=OSError(28, "No space left on device")))
    for target in (tmp_path / "new" / "below", kept):
        with pytest.raises(CheckpointError, match="free on the disk" if at == "before" else "No space left"):
            convert(folder, target, to="glm") if command == "convert" else quantize_folder(folder, target, "int8")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in kept.iterdir()] == ["note.txt"]


def test_convert_overwrites_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="already holds a model"):
        convert(with_tokenizer("numerics/a_base", tmp_path / "official"), tmp_path, to="glm")


SOURCES: dict[str, tuple[str, str | None, str, str]] = {  # what is damaged, its new content, --to, words of the error
    "official already": ("", "", "official", "already in the official layout"),
    "glm already": ("config.json", '{"model_type": "glm"}', "glm", "already stock GLM"),
    "no json": ("config.json", "{", "glm", "config.json is not valid JSON"),
    "no json back": ("config.json", "{", "official", "config.json is not valid JSON"),
    "no object": ("config.json", "[]", "glm", "holds a JSON list"),
    "no object back": ("config.json", "[]", "official", "holds a JSON list"),
    "llama": ("config.json", '{"model_type": "llama"}', "glm", "model_type 'llama'"),
    "llama back": ("config.json", '{"model_type": "llama"}', "official", "model_type is 'llama'"),
    "no config": ("config.json", None, "glm", "has no config.json; found"),
    "junk tokenizer": ("tokenizer.model", "junk", "glm", "tokenizer.model.*not a SentencePiece model"),
    "no tokenizer": ("tokenizer.model", None, "glm", "has no tokenizer.model; copy it"),
    "tokenizer settings": ("tokenizer_config.json", "[]", "glm", "tokenizer_config.json holds a JSON list"),
    "generation settings": ("generation_config.json", "{", "glm", "generation_config.json is not valid JSON"),
    "weights": ("model.safetensors", "{", "glm", "model.safetensors"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_what_cannot_be_converted_is_one_line_and_writes_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, to, words = SOURCES[kind]
    folder = with_tokenizer("numerics/a_base", tmp_path / "source")
    if content is None:
        (folder / name).unlink()
    elif name:
        (folder / name).write_text(content)
    assert main(["convert", str(folder), str(tmp_path / "new"), "--to", to]) == 1
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert re.search(f"^chatglm: error: .*{words}", errors)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_a_place_that_cannot_be_written(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    folder = with_tokenizer("numerics/a_base", tmp_path / "source")
    assert main(["convert", str(folder), str(tmp_path / place), "--to", "glm"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("chatglm: error: ")
    assert errors.count("\n") == 1
    assert str(tmp_path / place) in errors
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("command", [["convert", "--to", "glm"], ["convert", "--to", "official"]])
@pytest.mark.parametrize("name", ["THUDM/chatglm3-6b", "", "FILE"])
def test_what_is_no_folder(command: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "FILE":
        (tmp_path / "README.md").write_text("x")
        name = str(tmp_path / "README.md")
    assert main([*command, name, str(tmp_path / "new")]) == 1
    errors = capsys.readouterr().err
    assert f"`chatglm {command[0]}` takes a folder on this machine" in errors
    assert ("is a file; give the folder it lies in" in errors) == name.endswith("README.md")


def test_a_rope_ratio_of_unknown_meaning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_tokenizer("numerics/a_base", tmp_path / "source")
    (folder / "tokenizer_config.json").unlink()
    config = json.loads((folder / "config.json").read_text()) | {"rope_ratio": 16}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["info", str(folder)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "rope_ratio 16 of unknown" in line)
    assert "--rope-ratio-meaning" in line
    command = ["convert", str(folder), "--to", "glm"]
    assert main([*command, str(tmp_path / "glm")]) == 1
    assert "--rope-ratio-meaning on the command line" in capsys.readouterr().err
    for meaning, theta in (("base", 160_000.0), ("position", 10_000.0)):
        assert main([*command, str(tmp_path / meaning), "--rope-ratio-meaning", meaning]) == 0
        rope = json.loads((tmp_path / meaning / "config.json").read_text())["rope_parameters"]
        assert (rope["rope_theta"], rope.get("factor", 1)) == (theta, 16 if meaning == "position" else 1)
    with pytest.raises(ConfigError, match="stock folder says"):
        convert(tmp_path / "base", tmp_path / "back", to="official", rope_ratio_meaning="base")


def test_sizes() -> None:
    assert [size_text(n) for n in (7, 28_672, 12_487_168_064)] == ["7 bytes", "28.7 KB", "12.49 GB"]
