"""Quantizing while reading, and the copies that are kept of it."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

import chatglm
from chatglm import copies, loading, memory
from chatglm.cli import main
from chatglm.demo import WEIGHTS
from chatglm.errors import ConfigError
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.hf import PackedConfig
from chatglm.quant.model import quantize_model, scheme_of
from chatglm.quant.scheme import QuantScheme

SCHEMES: list[Any] = [
    "int4", "int4-g128-asym", "int8", "int4-rowwise", QuantScheme(4, 64, head_bits=4, embedding_bits=None),
    QuantScheme(8, skip=("*.layers.1.*",)),
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "chatglm" / "quantized"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, tmp_path / "model"))


def assert_same(found: Any, expected: Any) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert scheme_of(found) == scheme_of(expected)


# How a file is read has nothing to do with what becomes of its tensors: two schemes stand for all with the other forms.
@pytest.mark.parametrize(
    ("form", "scheme"),
    [
        pytest.param(
            form, scheme, marks=[pytest.mark.slow] * (form != "safetensors" and number > 1), id=f"{form}-{scheme}"
        )
        for form in ("safetensors", "shards", "bin")
        for number, scheme in enumerate(SCHEMES)
    ],
)
def test_every_way_gives_the_same_model(scheme: Any, form: str, folder: Path, tmp_path: Path) -> None:
    full = ChatGLMForConditionalGeneration.from_pretrained(folder)
    if form == "shards":
        full.save_pretrained(folder, max_shard_size="1MB")
    if form == "bin":
        torch.save(full.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    expected = quantize_model(full, scheme)
    models = [
        AutoModel.from_pretrained(folder, quantization_config=PackedConfig(scheme)),
        *(chatglm.load(folder, quantize=scheme, dtype="auto", device="cpu", cache=c)[0] for c in (False, True, True)),
    ]
    for model in models:
        assert_same(model, expected)
        assert model.name_or_path == str(folder)
    for index, model in enumerate([expected, models[1], models[3]]):
        model.save_pretrained(tmp_path / str(index))
    contents = [(tmp_path / str(index) / "model.safetensors").read_bytes() for index in range(3)]
    assert contents[0] == contents[1] == contents[2]


def test_a_copy_is_used_until_its_source_changes(
    folder: Path, cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(**options: Any) -> Any:
        return chatglm.load(folder, device="cpu", cache=True, **options)[0]

    load(quantize="int8")
    load(quantize="int8-rowwise")  # the same but for head and embedding: a copy of its own
    assert re.search(r"kept for later in .* \(3\.\d MB\)", capfd.readouterr().err)
    assert len(copies.copies()) == len(list(cache.iterdir())) == 2
    shutil.move(folder, folder.with_name("moved"))
    with monkeypatch.context() as patched:
        patched.setattr(copies, "keep", None)  # nothing is made again
        model = chatglm.load(folder.with_name("moved"), device="cpu", cache=True, quantize="int8")[0]
    shutil.move(folder.with_name("moved"), folder)
    changed = ChatGLMForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        changed.transformer.encoder.layers[0].mlp.dense_4h_to_h.weight.mul_(2)
    changed.save_pretrained(folder)
    again = load(quantize="int8")
    assert "has changed; its older copy" in capfd.readouterr().err
    assert len(copies.copies()) == 2
    name = "transformer.encoder.layers.0.mlp.dense_4h_to_h.packed_scales"
    assert torch.allclose(again.state_dict()[name], 2 * model.state_dict()[name])


def test_settings_are_those_of_the_source_not_of_the_copy(folder: Path) -> None:
    chatglm.load(folder, quantize="int4", device="cpu", cache=True)
    path = folder / "config.json"
    path.write_text(re.sub(r'"seq_length": \d+', '"seq_length": 99', path.read_text()))
    (folder / "generation_config.json").write_text('{"top_k": 7}')
    model = chatglm.load(folder, quantize="int4", device="cpu", cache=True)[0]
    assert (model.config.seq_length, model.generation_config.top_k) == (99, 7)


def test_a_damaged_copy_is_made_again(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected = chatglm.load(folder, quantize="int4", device="cpu", cache=True)[0]
    state = {name: tensor.clone() for name, tensor in expected.state_dict().items()}
    (copy,) = copies.copies()
    file = next(copy.folder.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    model = chatglm.load(folder, quantize="int4", device="cpu", cache=True)[0]
    assert "is damaged; it is made again" in capfd.readouterr().err
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_where_nothing_can_be_kept_it_says_so_and_loads(
    folder: Path, cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder)
    with monkeypatch.context() as patched:
        patched.setattr(copies.shutil, "disk_usage", lambda _: usage._replace(free=10**9 + 10**6))
        chatglm.load(folder, quantize="int4", device="cpu", cache=True)
    assert re.search(r"not kept for later: 2\.\d MB are needed", capfd.readouterr().err)
    cache.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(cache, ignore_errors=True)
    cache.write_text("a file is in the way")
    chatglm.load(folder, quantize="int4", device="cpu", cache=True)
    assert "cannot be written" in capfd.readouterr().err


def test_small_folders_are_kept_only_when_asked(folder: Path, cache: Path) -> None:
    chatglm.load(folder, quantize="int4", device="cpu")
    chatglm.load(folder, quantize="int4", device="cpu", cache=False)
    assert copies.copies() == []
    assert not cache.exists()


def test_the_command_lists_and_clears(folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chatglm.load(folder, quantize="int4", device="cpu", cache=True)
    (cache / ".part-left").mkdir()
    assert main(["cache", "list"]) == 0
    assert re.search(rf"MB  int4-g32 .* {folder}  {cache}", capsys.readouterr().out)
    assert main(["cache", "clear"]) == 0
    assert re.match(r"Removed 2\.\d MB", capsys.readouterr().out)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(("free", "scheme", "words"), [
    (4_000_000, None, r"need 0.0 GB of memory.*--quantize int4"), (10_000, "int8", "even int4"),
])  # fmt: skip
def test_a_plan_that_does_not_fit_is_refused_before_the_work(
    free: int, scheme: str | None, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    monkeypatch.setattr(loading, "_load_model", None)
    with pytest.raises(ConfigError, match=words):
        chatglm.load(folder, quantize=scheme, device="cpu")
