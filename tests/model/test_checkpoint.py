"""Official folders: what is read is what was written, bit for bit, whatever the files are called."""

import json
from pathlib import Path

import pytest
import torch
from golden_data import golden_cases, golden_file
from safetensors.torch import load_file, save_file
from tiny_folders import WITH_WEIGHTS, as_bin, base_folder, edit_config, golden_folder, rewrite, shard

from chatglm.errors import CheckpointError
from chatglm.model.checkpoint import stored_tensors, verify_folder
from chatglm.model.config import ChatGLMConfig
from chatglm.model.layout import canonical_name, expected_shapes
from chatglm.model.network import ChatGLMForConditionalGeneration, ChatGLMForSequenceClassification
from chatglm.model.saving import Source, parse_size, save_tensors, write_safetensors
from chatglm.model.weights import WeightFolder
from chatglm.quant import rowwise
from chatglm.quant.model import put, scheme_of
from chatglm.quant.packed import PackedLinear
from chatglm.quant.scheme import OFFICIAL

QUANTIZED = golden_cases("quantization")
IDS = torch.arange(3, 40)[None]


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


@pytest.mark.parametrize("case", WITH_WEIGHTS)
def test_expected_shapes_are_those_of_the_official_file(case: str, tmp_path: Path) -> None:
    folder = golden_folder(case, tmp_path)
    config = ChatGLMConfig.from_pretrained(folder)
    stored = {name: tuple(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
    classifier = {name: shape for name, shape in stored.items() if name.startswith("classifier_head")}
    assert expected_shapes(config) | classifier == stored


@pytest.mark.parametrize("case", WITH_WEIGHTS)
def test_load_and_save_give_the_same_file_byte_for_byte(case: str, tmp_path: Path) -> None:
    folder = golden_folder(case, tmp_path / "in")
    if case.startswith("f_seqcls"):
        # The official classifier also stores the output layer it never uses; ours does not build it.
        rewrite(folder, lambda tensors: tensors.pop("transformer.output_layer.weight"))  # type: ignore[arg-type,return-value]
        model = ChatGLMForSequenceClassification.from_pretrained(folder)
    else:
        model = ChatGLMForConditionalGeneration.from_pretrained(folder)
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "out"))
    if not case.startswith("f_seqcls"):
        left_out = {key for key in before if before[key] != after.get(key)} - {"_name_or_path", "transformers_version"}
        assert not left_out


@pytest.mark.parametrize("case", QUANTIZED)
def test_a_quantized_folder_comes_back_byte_for_byte(case: str, tmp_path: Path) -> None:
    source = golden_file(f"quantization/{case}")
    model = ChatGLMForConditionalGeneration.from_pretrained(source)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "config.json").read_text())["quantization_bit"] == int(case.removeprefix("model_int"))


def exactly(model: torch.nn.Module) -> None:
    """Multiply as the official code does: the kernels round activations to 8 bits, and no weight to 16."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, PackedLinear):
            put(model, name, layer.to_rowwise())


@pytest.mark.parametrize("case", QUANTIZED)
@pytest.mark.parametrize("dequantize", [False, True])
def test_quantized_folders_give_the_recorded_logits(case: str, dequantize: bool) -> None:
    source = golden_file(f"quantization/{case}")
    recorded = load_file(source / "io.safetensors")
    inputs = {"input_ids": recorded["input_ids"], "position_ids": recorded["position_ids"]}
    model = ChatGLMForConditionalGeneration.from_pretrained(source, dtype=torch.float32, dequantize=dequantize)
    bits = int(case.removeprefix("model_int"))
    assert scheme_of(model) == (None if dequantize else OFFICIAL[bits])
    assert model.config.quantization_bit == (0 if dequantize else bits)
    exactly(model)
    torch.testing.assert_close(model(**inputs).logits, recorded["float32.logits"], atol=3e-5, rtol=2e-5)
    half = ChatGLMForConditionalGeneration.from_pretrained(source, dequantize=dequantize)
    assert half.dtype == torch.float16
    exactly(half)
    allowed = (
        2
        * json.loads(golden_file("quantization/tolerance.json").read_text())[case.removeprefix("model_")][
            "official_half_error_vs_float32_max"
        ]
    )
    torch.testing.assert_close(half(**inputs).logits, recorded["half.logits"], atol=allowed, rtol=0)


@pytest.mark.parametrize("case", QUANTIZED)
def test_dequantized_weights_are_the_stored_ones_exactly(case: str) -> None:
    source = golden_file(f"quantization/{case}")
    stored = load_file(source / "model.safetensors")
    bits = int(case.removeprefix("model_int"))
    loaded = ChatGLMForConditionalGeneration.from_pretrained(source, dequantize=True).state_dict()
    scales = [name for name in stored if name.endswith("weight_scale")]
    assert len(scales) == 8
    for name in scales:
        weight = name.removesuffix("_scale")
        assert torch.equal(loaded[weight], rowwise.dequantize(stored[weight], stored[name], bits)), weight


@pytest.mark.parametrize("case", QUANTIZED[:1])
def test_casting_a_quantized_model_keeps_what_is_stored(case: str) -> None:
    source = golden_file(f"quantization/{case}")
    model = ChatGLMForConditionalGeneration.from_pretrained(source)
    before = {name: module.dequantize() for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    for cast in (model.bfloat16, model.float, model.half):
        cast()
        for name, weight in before.items():
            assert torch.equal(model.get_submodule(name).dequantize(), weight)


def test_every_kind_of_file_holds_the_same_model(tmp_path: Path) -> None:
    reference = state(ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path / "single")))
    sharded, pickled, legacy, inner = (base_folder(tmp_path / name) for name in ("sharded", "bin", "legacy", "inner"))
    assert len(shard(sharded)) > 2
    as_bin(pickled)
    tensors = torch.load(as_bin(legacy), weights_only=True)
    torch.save(tensors, legacy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    # Saved from the inner model: names without `transformer.`
    save_file(
        {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
        inner / "model.safetensors",
        metadata={"format": "pt"},
    )
    for folder in (sharded, pickled, legacy, inner):
        assert same(state(ChatGLMForConditionalGeneration.from_pretrained(folder)), reference), folder.name


def test_sharded_bin_files(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    reference = state(ChatGLMForConditionalGeneration.from_pretrained(folder))
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": names[:15], "pytorch_model-00002-of-00002.bin": names[15:]}
    for file, part in parts.items():
        torch.save({name: tensors[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    assert same(state(ChatGLMForConditionalGeneration.from_pretrained(folder)), reference)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, "float16"])
def test_a_cast_on_loading_equals_a_cast_afterwards(tmp_path: Path, dtype: torch.dtype | str, pickled: bool) -> None:
    folder = base_folder(tmp_path)
    if pickled:
        as_bin(folder)
    loaded = ChatGLMForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    wanted = torch.float16 if dtype == "float16" else dtype
    assert same(state(loaded), state(ChatGLMForConditionalGeneration.from_pretrained(folder).to(wanted)))


def test_sharding_follows_the_size_and_leaves_nothing_stale(tmp_path: Path) -> None:
    model = ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path / "in"))
    out = tmp_path / "out"
    for size in ("200KB", "1GB", 400_000):
        model.save_pretrained(out, max_shard_size=size)
        files = sorted(path.name for path in out.glob("*.safetensors"))
        limit = parse_size(size)
        assert (files == ["model.safetensors"]) == (limit > 1_300_000)
        assert (out / "model.safetensors.index.json").exists() == (len(files) > 1)
        largest_tensor = 1536 * 64 * 4
        assert max(path.stat().st_size for path in out.glob("*.safetensors")) < max(limit, largest_tensor) + 10_000
        assert same(state(ChatGLMForConditionalGeneration.from_pretrained(out)), state(model))


def test_saving_over_the_folder_the_weights_are_mapped_from(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    model = ChatGLMForConditionalGeneration.from_pretrained(folder)
    before = (folder / "model.safetensors").read_bytes()
    model.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert torch.isfinite(model(IDS).logits).all()


def test_inv_freq_of_the_file_survives_though_the_network_ignores_it(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "in")
    odd = torch.tensor([1.0, 0.11, 0.012, 0.0013])
    logits = ChatGLMForConditionalGeneration.from_pretrained(folder)(IDS).logits
    rewrite(folder, lambda tensors: tensors.update({"transformer.rotary_pos_emb.inv_freq": odd}))
    model = ChatGLMForConditionalGeneration.from_pretrained(folder)
    assert torch.equal(model(IDS).logits, logits)
    model.save_pretrained(tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["transformer.rotary_pos_emb.inv_freq"], odd)


def test_a_state_dict_can_be_saved_in_place_of_the_models_own(tmp_path: Path) -> None:
    model = ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path / "in"))
    doubled = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "out", state_dict=doubled)
    assert same(state(ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "out")), doubled)


def test_the_saved_config_is_what_other_engines_look_for(tmp_path: Path) -> None:
    ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path / "in"), dtype=torch.bfloat16).save_pretrained(
        tmp_path / "out"
    )
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["ChatGLMModel"]
    assert config["torch_dtype"] == "bfloat16"
    assert "quantization_config" not in config


def test_a_new_classification_head_and_a_new_prefix_may_be_missing(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    assert ChatGLMForSequenceClassification.from_pretrained(folder, num_labels=3).classifier_head.out_features == 3
    model = ChatGLMForConditionalGeneration.from_pretrained(folder, pre_seq_len=5)
    assert model.transformer.prefix_encoder.embedding.weight.shape == (5, 256)


def test_configuration_keywords_and_loading_info(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    model, info = ChatGLMForConditionalGeneration.from_pretrained(folder, output_loading_info=True, seq_length=77)
    assert model.config.seq_length == 77
    assert not info["missing_keys"]
    assert model.config.name_or_path == str(folder)


def test_ignored_shapes_stay_the_users_choice(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    with pytest.raises(CheckpointError, match="has shape"):
        ChatGLMForConditionalGeneration.from_pretrained(folder, padded_vocab_size=99)
    model = ChatGLMForConditionalGeneration.from_pretrained(folder, padded_vocab_size=99, ignore_mismatched_sizes=True)
    assert model.transformer.output_layer.weight.shape == (99, 64)


def test_tensors_are_read_one_at_a_time_into_memory_of_their_own(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    expected = load_file(folder / "model.safetensors")
    for weights in (WeightFolder(folder), WeightFolder(as_bin(base_folder(tmp_path / "bin")).parent)):
        assert all(torch.equal(weights.read(name), tensor) for name, tensor in expected.items())
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
            name: tuple(tensor.shape) for name, tensor in expected.items()
        }
        tensors = [tensor for _, tensor in weights.items()]
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)


def test_written_bytes_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 5, dtype=torch.bfloat16), "a": torch.randn(7).half(), "文": torch.zeros(2, 0),
        "i": torch.arange(4, dtype=torch.int8), "flag": torch.tensor(True), "x": torch.randn(4, 6).T,
    }  # fmt: skip
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "theirs", metadata={"format": "pt"})
    write_safetensors(tmp_path / "ours", {name: Source.of(tensor) for name, tensor in tensors.items()})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_failed_save_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    save_tensors(tmp_path, {"a": Source.of(torch.ones(2))})
    liar = Source((3,), torch.float32, lambda: torch.ones(2))
    with pytest.raises(CheckpointError, match=r"'b'.*\[2\].*\[3\]"):
        save_tensors(tmp_path, {"b": liar})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert list(WeightFolder(tmp_path).tensors) == ["a"]


@pytest.mark.parametrize("size", ["", "2 parsecs", "-1", 0, "0GB", "1.5GB"])
def test_sizes_that_are_none(size: str | int) -> None:
    with pytest.raises(CheckpointError, match="max_shard_size"):
        parse_size(size)


def test_sources_announce_what_they_make(tmp_path: Path) -> None:
    source = golden_file(f"quantization/{QUANTIZED[0]}")
    weights = verify_folder(source, ChatGLMConfig.from_pretrained(source))
    bits = int(QUANTIZED[0].removeprefix("model_int"))
    for dtype in (None, torch.float32):
        for name, item in stored_tensors(weights, bits=bits, dtype=dtype).items():
            tensor = item[...]
            assert (tuple(tensor.shape), tensor.dtype) == (item.shape, item.dtype), name
    assert canonical_name("encoder.x") == "transformer.encoder.x"


def test_transformers_own_saving_is_used_where_it_must(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "in")
    edit_config(folder, torch_dtype="float32")
    ChatGLMForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path / "out", variant="fp32")
    assert (tmp_path / "out/model.fp32.safetensors").is_file()
