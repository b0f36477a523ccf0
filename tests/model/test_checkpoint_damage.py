"""Damaged, incomplete and unfitting folders: always a CheckpointError that names file, tensor and shapes."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_folders import as_bin, base_folder, edit_config, rewrite, shard

from chatglm.errors import CheckpointError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.weights import WeightFolder, read_header

QKV = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
EMBEDDING = "transformer.embedding.word_embeddings.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1828780944\n"


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code ran')",))


def cut(path: Path, keep: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def change_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def change_index(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def single(folder: Path) -> Path:
    return folder / "model.safetensors"


def rename(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


# name -> (what to do with a good folder, words the message must hold)
DAMAGE: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "truncated": (lambda f: cut(single(f)), ["model.safetensors", "truncated", "transformer."]),
    "one byte short": (lambda f: single(f).write_bytes(single(f).read_bytes()[:-1]), ["truncated", "inv_freq", "[4]"]),
    "one byte long": (lambda f: single(f).write_bytes(single(f).read_bytes() + b"x"), ["damaged", "model.safetensors"]),
    "truncated header": (lambda f: single(f).write_bytes(single(f).read_bytes()[:100]), ["truncated", "header"]),
    "empty file": (lambda f: single(f).write_bytes(b""), ["model.safetensors", "empty"]),
    "garbage": (lambda f: single(f).write_bytes(b"<html>404</html>" * 9), ["not a safetensors file", "<html>"]),
    "header no json": (lambda f: single(f).write_bytes(struct.pack("<Q", 4) + b"nope"), ["damaged header"]),
    "git-lfs": (lambda f: single(f).write_bytes(LFS), ["git-lfs pointer", "git lfs pull"]),
    "git-lfs shard": (lambda f: shard(f)[1].write_bytes(LFS), ["model-00002-of-", "git-lfs pointer"]),
    "overlong range": (
        lambda f: change_header(single(f), lambda h: h[QKV]["data_offsets"].__setitem__(1, 10**9)),
        [QKV, "damaged header"],
    ),
    "overlapping ranges": (
        lambda f: change_header(
            single(f), lambda h: h["transformer.output_layer.weight"].update(data_offsets=h[EMBEDDING]["data_offsets"])
        ),
        ["damaged header", "starts at byte"],
    ),
    "wrong header shape": (lambda f: change_header(single(f), lambda h: h[QKV].update(shape=[1, 2])), [QKV, "[1, 2]"]),
    "unknown dtype": (lambda f: change_header(single(f), lambda h: h[QKV].update(dtype="F3")), [QKV, "F3"]),
    "missing shard": (lambda f: shard(f)[0].unlink(), ["model-00001-of-", "is missing"]),
    "truncated shard": (lambda f: cut(shard(f)[1]), ["model-00002-of-", "truncated"]),
    "index names a tensor the shard lacks": (
        lambda f: (shard(f), change_index(f, lambda m: m.update({QKV: m["transformer.output_layer.weight"]}))),
        ["index.json", QKV, "it is in"],
    ),
    "index names an unknown tensor": (
        lambda f: (shard(f), change_index(f, lambda m: m.update(ghost=m[QKV]))),
        ["index.json", "ghost"],
    ),
    "index leaves the folder": (
        lambda f: (shard(f), change_index(f, lambda m: m.update({QKV: "../model.safetensors"}))),
        ["index.json", QKV, "../model.safetensors"],
    ),
    "index invalid": (lambda f: shard(f)[0].parent.joinpath("model.safetensors.index.json").write_text("{"), ["index"]),
    "index empty": (
        lambda f: (shard(f), (f / "model.safetensors.index.json").write_text('{"weight_map": {}}')),
        ["index.json", "lists no tensors"],
    ),
    "index of another form": (
        lambda f: (shard(f), (f / "model.safetensors.index.json").write_text("[]")),
        ["index.json", "weight_map"],
    ),
    "no weights": (lambda f: single(f).unlink(), ["no weights", "config.json", "pytorch_model.bin"]),
    "tensor twice": (
        lambda f: (shard(f), (f / "model-00001-of-00009.safetensors").write_bytes(b""), twice(f)),
        ["two files"],
    ),
    "wrong shape": (
        lambda f: rewrite(f, lambda t: t.update({QKV: torch.zeros(128, 63)})),
        ["model.safetensors", QKV, "[128, 63]", "expected [128, 64]"],
    ),
    "transposed": (
        lambda f: rewrite(f, lambda t: t.update({QKV: t[QKV].T.contiguous()})),
        [QKV, "[64, 128]", "[128, 64]"],
    ),
    "wrong dtype": (lambda f: rewrite(f, lambda t: t.update({QKV: t[QKV].to(torch.int8)})), [QKV, "torch.int8"]),
    "missing tensor": (lambda f: rewrite(f, lambda t: t.pop(QKV)), [QKV, "is missing", "[128, 64]"]),  # type: ignore[arg-type,return-value]
    "renamed tensor": (
        lambda f: rewrite(f, lambda t: rename(t, QKV, "transformer.qkv")),
        [QKV, "is missing", "unexpected", "'transformer.qkv'"],
    ),
    "unexpected tensor": (
        lambda f: rewrite(f, lambda t: t.update({"transformer.extra": torch.ones(3)})),
        ["unexpected", "'transformer.extra'", "[3]"],
    ),
    "prefix without configuration": (
        lambda f: rewrite(f, lambda t: t.update({"transformer.prefix_encoder.embedding.weight": torch.ones(3, 256)})),
        ["unexpected", "pre_seq_len"],
    ),
    "prefix announced and absent": (lambda f: edit_config(f, pre_seq_len=7), ["pre_seq_len 7", "no prefix"]),
    "more layers than files": (lambda f: edit_config(f, num_layers=5), ["layers.4.", "is missing"]),
    "fewer layers than files": (lambda f: edit_config(f, num_layers=3), ["layers.3.", "unexpected"]),
    "other vocabulary": (lambda f: edit_config(f, padded_vocab_size=65024), ["[1536, 64]", "[65024, 64]"]),
    "bias switched off": (lambda f: edit_config(f, add_qkv_bias=False), ["query_key_value.bias", "unexpected"]),
    "said to be quantized": (lambda f: edit_config(f, quantization_bit=4), ["quantization_bit 4", "full precision"]),
    "bin truncated": (lambda f: cut(as_bin(f)), ["pytorch_model.bin", "truncated"]),
    "bin garbage": (lambda f: as_bin(f).write_bytes(b"garbage" * 50), ["pytorch_model.bin", "damaged", "garbage"]),
    "bin git-lfs": (lambda f: as_bin(f).write_bytes(LFS), ["pytorch_model.bin", "git-lfs pointer"]),
    "bin runs code": (
        lambda f: as_bin(f, lambda t: t | {"a": RunsCode()}),
        ["pytorch_model.bin", "exec", "refused"],
    ),
    "bin nested": (lambda f: as_bin(f, lambda t: {"state_dict": t}), ["pytorch_model.bin", "flat dictionary"]),
    "bin holds None": (lambda f: as_bin(f, lambda t: t | {"a": None}), ["pytorch_model.bin", "NoneType"]),
    "bin wrong shape": (
        lambda f: as_bin(f, lambda t: t | {QKV: torch.zeros(1)}),
        ["pytorch_model.bin", QKV, "[1]", "[128, 64]"],
    ),
}


def twice(folder: Path) -> None:
    """A shard that holds a tensor of another shard as well; the index points to either."""
    from safetensors.torch import load_file, save_file

    (folder / "model-00001-of-00009.safetensors").unlink()
    files = sorted(folder.glob("model-*.safetensors"))
    first, second = load_file(files[0]), load_file(files[1])
    name = next(iter(first))
    save_file(second | {name: first[name]}, files[1])


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    damage, words = DAMAGE[kind]
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        ChatGLMForConditionalGeneration.from_pretrained(folder)
    message = str(caught.value)
    assert all(word in message for word in words), message


def test_the_undamaged_folder_loads(tmp_path: Path) -> None:
    ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path))


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights in .*model.safetensors.index.json.*an empty folder"):
        WeightFolder(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        WeightFolder(tmp_path / "nothing")


def test_quantized_weights_without_the_key_in_config(tmp_path: Path) -> None:
    source = golden_file("quantization/model_int4")
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_bit": 0}))
    with pytest.raises(CheckpointError, match="weight_scale.*quantization_bit 0"):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_bit": 8}))
    with pytest.raises(CheckpointError, match=r"\[1024, 80\], expected \[1024, 160\]"):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path)


def test_pickles_are_never_trusted(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights_only"):
        ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path), weights_only=False)


def test_many_problems_are_counted_not_listed(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"and \d+ more") as caught:
        ChatGLMForConditionalGeneration.from_pretrained(
            folder, config=ChatGLMConfig.from_pretrained(folder, num_layers=9)
        )
    assert len(str(caught.value).splitlines()) == 10


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_to_a_header_never_escapes_as_another_error(tmp_path: Path, data: st.DataObject) -> None:
    good = single(base_folder(tmp_path / "good")).read_bytes()
    length = 8 + struct.unpack("<Q", good[:8])[0]
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(bad))
    try:
        found = read_header(path)
    except CheckpointError:
        pass  # any other error fails the test
    else:
        assert all(info.stop <= len(bad) for info in found.values())
