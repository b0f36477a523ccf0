"""P-Tuning v2 prefixes and LoRA folders in the forms the official scripts left behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import load_file, save_file
from tiny_folders import WITH_WEIGHTS, as_bin, base_folder, golden_folder, rewrite

from chatglm.errors import CheckpointError, MissingExtraError
from chatglm.model.adapters import attach_lora, load_prefix, read_prefix
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.model import quantize_rowwise
from chatglm.quant.packed import PackedLinear

PREFIXES = [case for case in ("e_prefix", "e_prefix_proj") if case in WITH_WEIGHTS]
IDS = torch.arange(30, 44)[None]
TARGET = "transformer.encoder.layers.{}.self_attention.query_key_value"


def base_and_prefix(case: str, target: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A recorded model with a prefix, taken apart: the base model's folder, and the prefix under official names."""
    folder = golden_folder(case, target)
    tensors = load_file(folder / "model.safetensors")
    rewrite(folder, lambda t: [t.pop(name) for name in list(t) if "prefix_encoder" in name])  # type: ignore[arg-type,return-value]
    config = json.loads((folder / "config.json").read_text())
    config.pop("pre_seq_len")
    config.pop("prefix_projection", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder, {name: tensor for name, tensor in tensors.items() if "prefix_encoder" in name}


def write_prefix(form: str, prefix: dict[str, torch.Tensor], target: Path) -> Path:
    target.mkdir()
    if form == "bare names":
        prefix = {name.removeprefix("transformer.prefix_encoder."): tensor for name, tensor in prefix.items()}
    elif form == "without transformer":
        prefix = {name.removeprefix("transformer."): tensor for name, tensor in prefix.items()}
    if form in ("safetensors", "bare names"):
        save_file(prefix, target / "model.safetensors")
        return target
    torch.save(prefix, target / "pytorch_model.bin")
    return target / "pytorch_model.bin" if form == "file" else target


@pytest.mark.parametrize("case", PREFIXES)
@pytest.mark.parametrize("form", ["bin folder", "file", "safetensors", "without transformer", "bare names"])
def test_base_and_prefix_give_the_recorded_logits(case: str, form: str, tmp_path: Path) -> None:
    folder, prefix = base_and_prefix(case, tmp_path / "base")
    model = ChatGLMForConditionalGeneration.from_pretrained(folder)
    load_prefix(model, write_prefix(form, prefix, tmp_path / "prefix"))
    source = golden_file(f"numerics/{case}")
    recorded, meta = load_file(source / "io.safetensors"), json.loads((source / "meta.json").read_text())
    call = meta["calls"][0]
    inputs = {key: recorded[call[key]] for key in ("input_ids", "position_ids", "attention_mask") if key in call}
    torch.testing.assert_close(model(**inputs).logits, recorded[f"{call['name']}.logits"], atol=3e-5, rtol=2e-5)
    model.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_a_prefix_can_be_taken_out_of_a_whole_model(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    trained = ChatGLMForConditionalGeneration.from_pretrained(folder, pre_seq_len=6)
    torch.nn.init.normal_(trained.transformer.prefix_encoder.embedding.weight)
    trained.save_pretrained(tmp_path / "whole")
    fresh = load_prefix(ChatGLMForConditionalGeneration.from_pretrained(folder), tmp_path / "whole")
    assert fresh.config.pre_seq_len == 6
    torch.testing.assert_close(fresh(IDS).logits, trained(IDS).logits)


def test_a_prefix_fits_a_quantized_and_a_half_precision_model(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    save_file({"transformer.prefix_encoder.embedding.weight": torch.randn(4, 256)}, tmp_path / "p.safetensors")
    model = quantize_rowwise(ChatGLMForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16), 8)
    plain = model(IDS).logits
    load_prefix(model, tmp_path / "p.safetensors")  # type: ignore[arg-type]
    assert model.transformer.prefix_encoder.embedding.weight.dtype == torch.float32
    assert not torch.equal(model(IDS).logits, plain)


def test_prefixes_that_do_not_fit(tmp_path: Path) -> None:
    name = "transformer.prefix_encoder.embedding.weight"
    model = ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path / "base"))
    expected = r"\[9, 128\], expected \[9, 256\]"
    for tensors, words in (
        ({name: torch.ones(9, 128)}, expected),
        (
            {name: torch.ones(9, 256), name.replace("embedding", "trans.0"): torch.ones(64, 256)},
            "trans.0.bias.*missing",
        ),
        ({"transformer.other": torch.ones(1)}, "holds no P-Tuning v2 prefix.*transformer.other"),
    ):
        save_file(tensors, tmp_path / "p.safetensors")
        with pytest.raises(CheckpointError, match=words):
            load_prefix(model, tmp_path / "p.safetensors")
        assert model.config.pre_seq_len is None
    five = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "base", pre_seq_len=5)
    save_file({name: torch.ones(9, 256)}, tmp_path / "p.safetensors")
    with pytest.raises(CheckpointError, match="9 rows.*pre_seq_len 5"):
        load_prefix(five, tmp_path / "p.safetensors")


def test_a_prefix_folder_is_no_model(tmp_path: Path) -> None:
    folder, prefix = base_and_prefix(PREFIXES[0], tmp_path / "base")
    written = write_prefix("bin folder", prefix, tmp_path / "prefix")
    (written / "config.json").write_text(golden_file(f"numerics/{PREFIXES[0]}/config.json").read_text())
    with pytest.raises(CheckpointError, match="only a P-Tuning v2 prefix"):
        ChatGLMForConditionalGeneration.from_pretrained(written)
    assert folder.is_dir()


def test_peft_prefixes_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        read_prefix(tmp_path / "nothing.bin")
    for kind, words in (("LORA", "adapter="), ("PREFIX_TUNING", "peft PREFIX_TUNING")):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
        with pytest.raises(CheckpointError, match=words):
            read_prefix(tmp_path)


def write_lora(target: Path, form: str = "bin") -> Path:
    """As peft 0.7 wrote it for the official script: packed query_key_value, the base model's path of that machine."""
    target.mkdir()
    torch.manual_seed(3)
    tensors = {}
    for layer in range(4):
        prefix = f"base_model.model.{TARGET.format(layer)}."
        tensors |= {f"{prefix}lora_A.weight": torch.randn(2, 64), f"{prefix}lora_B.weight": torch.randn(128, 2)}
    options = {
        "auto_mapping": None, "base_model_name_or_path": "/models/chatglm3-6b", "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None,
        "lora_alpha": 8, "lora_dropout": 0.1, "modules_to_save": None, "peft_type": "LORA", "r": 2, "revision": None,
        "target_modules": ["query_key_value"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (target / "adapter_config.json").write_text(json.dumps(options))
    if form == "bin":
        torch.save(tensors, target / "adapter_model.bin")
    else:
        save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    return target


def with_lora_by_hand(folder: Path, lora: Path) -> torch.Tensor:
    """Logits of the base model with scale * B A added to the weights."""
    model = ChatGLMForConditionalGeneration.from_pretrained(folder)
    tensors = torch.load(lora / "adapter_model.bin", weights_only=True)
    for layer in range(4):
        prefix = f"base_model.model.{TARGET.format(layer)}."
        delta = tensors[f"{prefix}lora_B.weight"] @ tensors[f"{prefix}lora_A.weight"] * (8 / 2)
        with torch.no_grad():
            model.get_submodule(TARGET.format(layer)).weight.add_(delta)
    return model(IDS).logits


@pytest.mark.parametrize("merge", [False, True])
def test_lora_adds_what_it_says(merge: bool, tmp_path: Path) -> None:
    folder, lora = base_folder(tmp_path / "base"), write_lora(tmp_path / "lora")
    expected = with_lora_by_hand(folder, lora)
    model = attach_lora(ChatGLMForConditionalGeneration.from_pretrained(folder), lora, merge=merge)
    torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    assert isinstance(model, ChatGLMForConditionalGeneration) == merge
    if merge:
        model.save_pretrained(tmp_path / "merged")
        again = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(again(IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_lora_from_safetensors_is_the_same(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    first, second = (
        attach_lora(ChatGLMForConditionalGeneration.from_pretrained(folder), write_lora(tmp_path / form, form))
        for form in ("bin", "safetensors")
    )
    assert torch.equal(first(IDS).logits, second(IDS).logits)


def test_lora_on_a_quantized_model(tmp_path: Path) -> None:
    folder, lora = base_folder(tmp_path / "base"), write_lora(tmp_path / "lora")
    quantized = quantize_rowwise(ChatGLMForConditionalGeneration.from_pretrained(folder), 8)
    reference = quantize_rowwise(ChatGLMForConditionalGeneration.from_pretrained(folder), 8)
    for module in (*quantized.modules(), *reference.modules()):
        if isinstance(module, PackedLinear):
            module.precise = True
    for layer in range(4):  # full weights with the same values
        module = reference.get_submodule(TARGET.format(layer)).to_linear()
        reference.get_submodule(TARGET.format(layer).rpartition(".")[0]).query_key_value = module
    attached = attach_lora(quantized, lora)  # type: ignore[arg-type]
    expected = attach_lora(reference, lora)  # type: ignore[arg-type]
    torch.testing.assert_close(attached(IDS).logits, expected(IDS).logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(CheckpointError, match="dequantize=True"):
        attach_lora(quantize_rowwise(ChatGLMForConditionalGeneration.from_pretrained(folder), 8), lora, merge=True)  # type: ignore[arg-type]
    for safe in (False, True):  # peft's own merge would write into the stored integers, or drop the adapter silently
        with pytest.raises(CheckpointError, match="cannot be merged into quantized weights"):
            attached.merge_and_unload(safe_merge=safe)


def test_saving_a_model_with_an_adapter_inside_is_refused(tmp_path: Path) -> None:
    model = ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path / "base"))
    attach_lora(model, write_lora(tmp_path / "lora"))
    with pytest.raises(CheckpointError, match="merge or remove"):
        model.save_pretrained(tmp_path / "out")


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = torch.load(folder / "adapter_model.bin", weights_only=True)
    change(tensors)
    torch.save(tensors, folder / "adapter_model.bin")


A, B = (f"base_model.model.{TARGET.format(1)}.lora_{side}.weight" for side in "AB")
DAMAGE: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "other width": (lambda f: change_tensors(f, lambda t: t.update({A: torch.ones(2, 65)})), [A, "[2, 65]", "64"]),
    "other rows": (lambda f: change_tensors(f, lambda t: t.update({B: torch.ones(9, 2)})), [B, "[9, 2]", "128"]),
    "other module": (
        lambda f: change_tensors(f, lambda t: t.update({A.replace("layers.1", "layers.8"): t[A]})),
        ["layers.8", "another model"],
    ),
    "no lora in it": (lambda f: torch.save({"x": torch.ones(1)}, f / "adapter_model.bin"), ["no LoRA tensors"]),
    "truncated": (
        lambda f: (f / "adapter_model.bin").write_bytes((f / "adapter_model.bin").read_bytes()[:900]),
        ["adapter_model.bin", "truncated"],
    ),
    "no weights": (lambda f: (f / "adapter_model.bin").unlink(), ["adapter_model.safetensors"]),
    "no configuration": (lambda f: (f / "adapter_config.json").unlink(), ["adapter_config.json is missing"]),
    "bad configuration": (lambda f: (f / "adapter_config.json").write_text("{"), ["adapter_config.json", "JSON"]),
    "other kind": (lambda f: (f / "adapter_config.json").write_text('{"peft_type": "IA3"}'), ["IA3", "LORA"]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_lora_folders(kind: str, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora")
    damage, words = DAMAGE[kind]
    damage(lora)
    model = ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path / "base"))
    with pytest.raises(CheckpointError) as caught:
        attach_lora(model, lora)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_without_peft_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    model = ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path / "base"))
    with pytest.raises(MissingExtraError, match=r"chatglm\[peft\]"):
        attach_lora(model, write_lora(tmp_path / "lora"))


def test_the_helper_that_writes_bin_files_is_honest(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    before: dict[str, Any] = load_file(folder / "model.safetensors")
    assert before.keys() == torch.load(as_bin(folder), weights_only=True).keys()
