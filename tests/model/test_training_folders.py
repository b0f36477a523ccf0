"""Folders as training tools leave them: other names around the model's tensors, and more than the model beside them."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folders import as_bin, base_folder, shard
from transformers import AutoModel

from chatglm.errors import CheckpointError
from chatglm.folders.convert import to_glm
from chatglm.folders.describe import describe
from chatglm.folders.quantize import quantize_folder
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.weights import WeightFolder

Tensors = dict[str, torch.Tensor]
HEAD = "transformer.output_layer.weight"
IDS = torch.arange(3, 30)[None]


def around(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


def inside(part: str) -> Callable[[str], str]:
    """A wrapper around every layer of the stack."""
    return lambda name: ".".join(f"{x}.{part}" if x.isdigit() else x for x in name.split("."))


NAMES: dict[str, Callable[[str], str]] = {
    "plain": lambda name: name,
    "inner model": lambda name: name.removeprefix("transformer."),
    "DDP": around("module."),
    "DeepSpeed of an inner model": lambda name: f"module.{name.removeprefix('transformer.')}",
    "peft": around("base_model.model."),
    "peft in DDP": around("module.base_model.model."),
    "Lightning": around("model."),
    "trl": around("pretrained_model."),
    "torch.compile": around("_orig_mod."),
    "FSDP": around("_fsdp_wrapped_module."),
    "FSDP around every layer": inside("_fsdp_wrapped_module"),
    "checkpointed layers": inside("_checkpoint_wrapped_module"),
    "FSDP of compiled layers": lambda name: f"module.{inside('_fsdp_wrapped_module._orig_mod')(name)}",
}
EXTRAS: dict[str, Callable[[Tensors], Tensors]] = {
    "lm_head": lambda tensors: {"lm_head.weight": tensors[HEAD].clone()},
    "rounded lm_head": lambda tensors: {"lm_head.weight": tensors[HEAD].half()},
    "value head of trl": lambda _: {"v_head.summary.weight": torch.ones(1, 64), "v_head.summary.bias": torch.ones(1)},
    "value head": lambda _: {"v_head.weight": torch.ones(1, 64)},
    "reward head": lambda _: {"score.weight": torch.ones(1, 64)},
    "optimizer": lambda _: {"optimizer.state.0.exp_avg": torch.ones(3), "optimizer.state.0.step": torch.tensor(4.0)},
    "computed": lambda _: {"transformer.encoder.layers.0.self_attention.rotary_emb.inv_freq": torch.ones(4)},
    "second name": lambda tensors: {f"model.{HEAD}": tensors[HEAD].clone()},
}


def change(folder: Path, kind: str, make: Callable[[Tensors], Tensors]) -> Path:
    """The folder with other tensors, stored as `kind`."""
    tensors = make(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if "sharded" in kind:
        shard(folder)
    if kind == "sharded, no metadata":
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": json.loads(path.read_text())["weight_map"]}))
    if kind == "bin":
        as_bin(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return logits(ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path_factory.mktemp("base"))))


KINDS = ("sharded", "sharded, no metadata", "bin")


@pytest.mark.parametrize(
    ("names", "kind"), [(n, "safetensors") for n in NAMES] + [(n, k) for k in KINDS for n in ("plain", "peft in DDP")]
)
def test_wrappers_are_understood(names: str, kind: str, expected: torch.Tensor, tmp_path: Path) -> None:
    folder = change(base_folder(tmp_path), kind, lambda tensors: {NAMES[names](n): t for n, t in tensors.items()})
    assert torch.equal(logits(AutoModel.from_pretrained(folder)), expected)


@pytest.mark.parametrize(("names", "kind"), [("plain", "safetensors"), ("peft in DDP", "sharded"), ("DDP", "bin")])
@pytest.mark.parametrize("extra", EXTRAS)
def test_what_only_training_needs_is_left_out_with_a_warning(
    extra: str, names: str, kind: str, expected: torch.Tensor, tmp_path: Path
) -> None:
    def make(tensors: Tensors) -> Tensors:
        return {NAMES[names](name): tensor for name, tensor in tensors.items()} | {
            (name if extra == "second name" else NAMES[names](name)): tensor
            for name, tensor in EXTRAS[extra](tensors).items()
        }

    folder = change(base_folder(tmp_path), kind, make)
    with pytest.warns(UserWarning, match="left out, as no part of the model") as told:
        model = AutoModel.from_pretrained(folder)
    assert any("'" in str(warning.message) for warning in told)
    assert torch.equal(logits(model), expected)


def test_an_output_layer_of_another_name_is_one(expected: torch.Tensor, tmp_path: Path) -> None:
    folder = change(base_folder(tmp_path), "safetensors", lambda t: {"lm_head.weight": t.pop(HEAD), **t})
    assert torch.equal(logits(AutoModel.from_pretrained(folder)), expected)


UNMERGED = "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value"
REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], list[str]]] = {
    "another output layer": (
        lambda t: {**t, "lm_head.weight": t[HEAD] + 1},
        ["'lm_head.weight'", f"{HEAD!r}", "they differ"],
    ),
    "another shape": (lambda t: {**t, "lm_head.weight": t[HEAD][:7].clone()}, ["[7, 64]", "they differ"]),
    "unmerged adapter": (
        lambda t: {**t, f"{UNMERGED}.lora_A.default.weight": torch.ones(2, 64)},
        [f"'{UNMERGED}.lora_A.default.weight'", "merge_and_unload"],
    ),
    "unmerged layer": (lambda t: {**t, f"{UNMERGED}.base_layer.weight": torch.ones(2)}, ["base_layer"]),
    "unknown, in a wrapper": (
        lambda t: {f"module.{n}": x for n, x in t.items()} | {"module.extra": torch.ones(3)},
        ["unexpected tensor 'module.extra'"],
    ),
    "another shape, in a wrapper": (
        lambda t: {f"module.{n}": x[:5].clone() if n == HEAD else x for n, x in t.items()},
        [f"'module.{HEAD}' has shape [5, 64]"],
    ),
}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_as_the_file_names_it(case: str, kind: str, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    with pytest.raises(CheckpointError) as caught:
        AutoModel.from_pretrained(change(base_folder(tmp_path), kind, make))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.filterwarnings("ignore:.*left out")
def test_the_commands_about_folders_read_them_too(tmp_path: Path) -> None:
    plain, wrapped = base_folder(tmp_path / "plain"), base_folder(tmp_path / "wrapped")
    change(wrapped, "sharded", lambda t: {f"module.{n}": x for n, x in t.items()} | EXTRAS["value head"](t))
    assert describe(wrapped).num_parameters == describe(plain).num_parameters
    for write in (lambda source, target: quantize_folder(source, target, "int8"), to_glm):
        first, second = (read(write(folder, folder / write.__name__)) for folder in (plain, wrapped))
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def read(folder: Path) -> Tensors:
    return dict(WeightFolder(folder).items())


@pytest.mark.parametrize("dtype", [None, "auto", torch.bfloat16, "torch.float16"])
@pytest.mark.parametrize("device_map", [None, "cpu"])
def test_options_of_loading_go_with_it(dtype: Any, device_map: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    folder = base_folder(tmp_path)
    options = {"dtype": dtype, "device_map": device_map} if dtype else {"device_map": device_map}
    plain = AutoModel.from_pretrained(folder, **options)
    change(folder, "sharded", lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()})
    with warnings.catch_warnings():
        model = AutoModel.from_pretrained(folder, **options)
    assert (model.dtype, model.config.name_or_path) == (plain.dtype, str(folder))
    assert torch.equal(logits(model), logits(plain))
    assert model.generation_config.eos_token_id == plain.generation_config.eos_token_id
