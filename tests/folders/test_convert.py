"""Stock GLM folders: the same numbers in plain transformers, and the way back, byte for byte."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import load_file
from tiny_folders import EXPORTABLE, WITH_WEIGHTS, as_bin, base_folder, edit_config, golden_folder, rewrite, shard
from transformers import AutoModelForCausalLM, GenerationConfig, GlmConfig, GlmForCausalLM

from chatglm.errors import ChatGLMError, CheckpointError, ConfigError
from chatglm.folders.convert import SIDE_FILE, to_glm, to_official
from chatglm.folders.stock_glm import glm_config, official_config
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

INEXPRESSIBLE = {
    "j_layernorm": "rmsnorm",
    "j_all": "rmsnorm",
    "j_no_final_norm": "post_layer_norm",
    "j_post_ln_residual": "apply_residual_connection_post_layernorm",
    "j_fp32_residual": "fp32_residual_connection",
    "j_bias_linear": "add_bias_linear",
    "e_prefix": "pre_seq_len",
}


@pytest.mark.parametrize("case", EXPORTABLE)
def test_stock_glm_gives_the_recorded_logits_and_the_folder_comes_back(case: str, tmp_path: Path) -> None:
    source = golden_folder(case, tmp_path / "official")
    model = AutoModelForCausalLM.from_pretrained(to_glm(source, tmp_path / "glm"))
    assert type(model) is GlmForCausalLM
    recorded = load_file(golden_file(f"numerics/{case}") / "io.safetensors")
    meta = json.loads((golden_file(f"numerics/{case}") / "meta.json").read_text())
    compared = 0
    for call in meta["calls"]:
        if "past_from" in call or call.get("return_last_logit") or f"{call['name']}.logits" not in recorded:
            continue
        inputs = {k: recorded[call[k]] for k in ("input_ids", "position_ids", "attention_mask") if k in call}
        rows = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()  # pads mean nothing
        logits, expected = model(**inputs).logits[rows], recorded[f"{call['name']}.logits"][rows]
        torch.testing.assert_close(logits, expected, atol=3e-5, rtol=2e-5)
        compared += 1
    assert compared
    back = to_official(tmp_path / "glm", tmp_path / "back")
    assert (back / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())


@pytest.mark.parametrize("case", [case for case in EXPORTABLE if case != "c_mha"])
def test_a_stock_folder_made_elsewhere_becomes_an_official_one(case: str, tmp_path: Path) -> None:
    source = golden_folder(case, tmp_path / "official")
    glm = to_glm(source, tmp_path / "glm")
    (glm / SIDE_FILE).unlink()
    back = to_official(glm, tmp_path / "back")
    assert (back / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    first, second = (ChatGLMConfig.from_pretrained(folder) for folder in (source, back))
    for key in json.loads((back / "config.json").read_text()):
        assert getattr(first, key) == getattr(second, key), key


def test_per_head_packing_becomes_an_equal_network_without_the_side_file(tmp_path: Path) -> None:
    if "c_mha" not in EXPORTABLE:
        folder = base_folder(tmp_path / "official")
        config = ChatGLMConfig.from_pretrained(folder, multi_query_attention=False)
        ChatGLMForConditionalGeneration(config).save_pretrained(folder)
    else:
        folder = golden_folder("c_mha", tmp_path / "official")
    glm = to_glm(folder, tmp_path / "glm")
    (glm / SIDE_FILE).unlink()
    ids = torch.arange(5, 25)[None]
    first = ChatGLMForConditionalGeneration.from_pretrained(folder)
    second = ChatGLMForConditionalGeneration.from_pretrained(to_official(glm, tmp_path / "back"))
    assert second.config.multi_query_attention
    torch.testing.assert_close(first(ids).logits, second(ids).logits, atol=3e-6, rtol=0)


def test_shards_return_as_they_were(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "official")
    shard(folder)
    glm = to_glm(folder, tmp_path / "glm")
    assert len(list(glm.glob("model-*.safetensors"))) > 1
    back = to_official(glm, tmp_path / "back")
    names = sorted(path.name for path in folder.glob("model*"))
    assert names == sorted(path.name for path in back.glob("model*"))
    for name in names:
        assert (folder / name).read_bytes() == (back / name).read_bytes(), name


def test_bin_folders_and_half_precision(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "official")
    ChatGLMForConditionalGeneration.from_pretrained(folder).half().save_pretrained(folder)
    expected = load_file(folder / "model.safetensors")
    as_bin(folder)
    glm = to_glm(folder, tmp_path / "glm")
    assert json.loads((glm / "config.json").read_text())["dtype"] == "float16"
    back = load_file(to_official(glm, tmp_path / "back") / "model.safetensors")
    assert back.keys() == expected.keys()
    assert all(
        torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in expected.items()
    )


def test_quantized_folders_are_exported_as_they_compute(tmp_path: Path) -> None:
    source = golden_file("quantization/model_int4")
    model = GlmForCausalLM.from_pretrained(to_glm(source, tmp_path / "glm"), dtype=torch.float32)
    recorded = load_file(source / "io.safetensors")
    logits = model(input_ids=recorded["input_ids"], position_ids=recorded["position_ids"]).logits
    torch.testing.assert_close(logits, recorded["float32.logits"], atol=3e-5, rtol=2e-5)


def test_generation_is_the_same(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "official")
    ids = torch.tensor([[5, 9, 200, 31, 4]])
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    ours = ChatGLMForConditionalGeneration.from_pretrained(folder)
    stock = GlmForCausalLM.from_pretrained(to_glm(folder, tmp_path / "glm"))
    stock.generation_config.top_p = stock.generation_config.temperature = None
    mask = torch.ones_like(ids)
    assert torch.equal(
        ours.generate(ids, attention_mask=mask, **options), stock.generate(ids, attention_mask=mask, **options)
    )


@pytest.mark.parametrize("case", [case for case in INEXPRESSIBLE if case in WITH_WEIGHTS])
def test_what_stock_glm_cannot_express_is_named(case: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=INEXPRESSIBLE[case]):
        to_glm(golden_folder(case, tmp_path / "in"), tmp_path / "glm")
    assert not (tmp_path / "glm").exists()


def test_rope_ratio_of_unknown_meaning_is_not_exported(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "official")
    edit_config(folder, rope_ratio=16)
    with pytest.raises(ConfigError, match="rope_ratio=16"):
        to_glm(folder, tmp_path / "glm")


@pytest.mark.parametrize(
    ("meaning", "ratio", "rope"),
    [
        ("base", 50, {"rope_type": "default", "rope_theta": 500000.0}),
        ("base", 500, {"rope_type": "default", "rope_theta": 5000000.0}),
        ("position", 16, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 16.0}),
    ],
)
def test_the_long_variants_keep_their_positions(meaning: Any, ratio: int, rope: dict[str, Any]) -> None:
    config = ChatGLMConfig(rope_ratio=ratio, rope_ratio_meaning=meaning, multi_query_attention=True)
    stock = glm_config(config, torch.float16, [2])
    assert stock["rope_parameters"] == rope | {"partial_rotary_factor": 0.5}
    assert GlmConfig.from_dict(stock).rope_parameters == stock["rope_parameters"]
    back = official_config(stock)
    assert (back["rope_ratio"], back["rope_ratio_meaning"]) == (ratio, meaning)


def test_official_dimensions() -> None:
    config = ChatGLMConfig(
        seq_length=8192, add_qkv_bias=True, multi_query_attention=True, multi_query_group_num=2, layernorm_epsilon=1e-5
    )
    stock = GlmConfig.from_dict(glm_config(config, torch.float16, [2, 64795, 64797]))
    assert (stock.vocab_size, stock.hidden_size, stock.intermediate_size) == (65024, 4096, 13696)
    assert (stock.num_hidden_layers, stock.num_attention_heads, stock.num_key_value_heads) == (28, 32, 2)
    assert (stock.head_dim, stock.max_position_embeddings, stock.rms_norm_eps) == (128, 8192, 1e-5)
    assert stock.attention_bias is True
    assert stock.eos_token_id == [2, 64795, 64797]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing tensor": (lambda f: rewrite(f, lambda t: t.pop("model.norm.weight")), "model.norm.weight"),  # type: ignore[arg-type,return-value]
    "wrong shape": (
        lambda f: rewrite(f, lambda t: t.update({"model.layers.0.self_attn.k_proj.weight": torch.ones(31, 64)})),
        r"query_key_value.weight.*\[127, 64\].*\[128, 64\]",
    ),
    "side file damaged": (lambda f: (f / SIDE_FILE).write_text("{}"), "damaged"),
    "side file no json": (lambda f: (f / SIDE_FILE).write_text("{"), "JSON"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "another model": (lambda f: ((f / SIDE_FILE).unlink(), edit_config(f, model_type="llama")), "llama"),
    "other rotation": (
        lambda f: (
            (f / SIDE_FILE).unlink(),
            edit_config(f, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        ),
        "yarn",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_stock_folders(kind: str, tmp_path: Path) -> None:
    glm = to_glm(base_folder(tmp_path / "official"), tmp_path / "glm")
    damage, words = DAMAGE[kind]
    damage(glm)
    with pytest.raises(ChatGLMError, match=words):
        to_official(glm, tmp_path / "back")


@pytest.mark.parametrize("settings", [None, {"eos_token_id": [2, 64795, 64797], "do_sample": True, "top_k": 9}])
@pytest.mark.parametrize("side", [True, False])
def test_generation_settings_come_back(settings: dict[str, Any] | None, side: bool, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "official")
    if settings is not None:
        GenerationConfig(**settings).save_pretrained(folder)
    glm = to_glm(folder, tmp_path / "glm")
    if not side:
        (glm / SIDE_FILE).unlink()
    back = to_official(glm, tmp_path / "back") / "generation_config.json"
    if side and settings is None:
        assert not back.exists()
    else:
        assert back.read_bytes() == ((folder if side else glm) / "generation_config.json").read_bytes()


def test_source_and_target_must_differ(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "official")
    with pytest.raises(CheckpointError, match="both"):
        to_glm(folder, tmp_path / "official" / ".." / "official")


def test_damaged_official_weights_are_not_exported(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "official")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        to_glm(folder, tmp_path / "glm")
