"""What transformers' own tests ask of every model, where ours checks and translates: errors, reports, settings."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import save_file
from tiny_folders import as_bin, base_folder, edit_config, rewrite, shard
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from chatglm.errors import CheckpointError, ConfigError
from chatglm.loading import demo_folder, load
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

EMBEDDING = "transformer.embedding.word_embeddings.weight"
IDS = torch.arange(3, 30)[None]


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification])
def test_sizes_that_do_not_fit_are_a_runtime_error_unless_they_are_to_be_ignored(auto: Any, tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    with pytest.raises(RuntimeError, match=r"\[1536, 64\]"):
        auto.from_pretrained(folder, padded_vocab_size=10)
    model = auto.from_pretrained(folder, padded_vocab_size=10, ignore_mismatched_sizes=True)
    assert model.get_input_embeddings().weight.shape == (10, 64)
    rewrite(folder, lambda tensors: tensors.pop(EMBEDDING))  # type: ignore[arg-type,return-value]
    with pytest.raises(RuntimeError):  # a file that lacks something is no lesser error
        auto.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_file_with_none_of_our_tensors(kind: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    save_file({"tensor": torch.tensor([1, 2])}, folder / "model.safetensors", metadata={"format": "pt"})
    if kind == "bin":
        as_bin(folder)
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert set(report["missing_keys"]) == set(model.state_dict())
    assert set(report["unexpected_keys"]) == {"tensor"}
    with pytest.raises(RuntimeError, match="'transformer.embedding.*is missing"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("said", ["", "THUDM/chatglm3-6b"])
def test_a_configuration_comes_back_equal(said: str, tmp_path: Path) -> None:
    first = ChatGLMConfig(num_layers=2)
    first._name_or_path = said
    first.save_pretrained(tmp_path)
    if said:
        edit_config(tmp_path, _name_or_path=said)
    second = ChatGLMConfig.from_pretrained(tmp_path)
    assert second.to_dict() == first.to_dict()
    model = ChatGLMForConditionalGeneration(ChatGLMConfig.from_pretrained(golden_file("numerics/a_base")))
    model.save_pretrained(tmp_path / "model")
    assert AutoModel.from_pretrained(tmp_path / "model").config.name_or_path == str(tmp_path / "model")


# What a file may say, and the plain keys that mean the same.
KEYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "groups by the standard name": (
        {"num_key_value_heads": 2, "multi_query_attention": None, "multi_query_group_num": None},
        {"multi_query_attention": True, "multi_query_group_num": 2},
    ),
    "groups by both names": ({"num_key_value_heads": 2}, {}),
    "one per head": (
        {"num_key_value_heads": 4, "multi_query_attention": False},
        {"multi_query_attention": False},
    ),
    "other standard names": (
        {"num_hidden_layers": 4, "num_layers": None, "vocab_size": 1536, "padded_vocab_size": None}, {},
    ),
    "a dtype with its module": ({"torch_dtype": "torch.float32"}, {"torch_dtype": "float32"}),
    "a dtype by its new name": ({"torch_dtype": None, "dtype": "torch.float32"}, {"torch_dtype": "float32"}),
}  # fmt: skip
NULLS = (
    "hidden_dropout", "attention_dropout", "classifier_dropout", "layernorm_epsilon", "quantization_bit",
    "pre_seq_len", "prefix_projection", "original_rope", "rope_ratio", "use_cache", "tie_word_embeddings",
    "apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion", "fp32_residual_connection",
    "add_bias_linear", "initializer_range", "apply_residual_connection_post_layernorm", "rmsnorm", "post_layer_norm",
    "torch_dtype",
)  # fmt: skip


def written(folder: Path, **keys: Any) -> Path:
    """The folder with keys of its config.json set; those that are Ellipsis are taken out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


@pytest.mark.parametrize("load", [ChatGLMConfig.from_pretrained, AutoConfig.from_pretrained])
@pytest.mark.parametrize("case", KEYS)
def test_keys_are_read_by_every_name_they_have(case: str, load: Any, tmp_path: Path) -> None:
    given, plain = KEYS[case]
    given = {key: ... if value is None else value for key, value in given.items()}
    first = load(written(base_folder(tmp_path / "given"), **given))
    second = load(written(base_folder(tmp_path / "plain"), **plain))
    assert first.to_diff_dict() | {"_name_or_path": ""} == second.to_diff_dict() | {"_name_or_path": ""}


@pytest.mark.parametrize("key", NULLS)
def test_null_is_what_a_missing_key_is(key: str, tmp_path: Path) -> None:
    null, missing = (
        written(base_folder(tmp_path / "a"), **{key: None}),
        written(base_folder(tmp_path / "b"), **{key: ...}),
    )
    first, second = (ChatGLMConfig.from_pretrained(folder).to_diff_dict() for folder in (null, missing))
    assert first == second
    if key not in ("rmsnorm", "post_layer_norm"):
        ChatGLMForConditionalGeneration.from_pretrained(null)(IDS)


def test_groups_can_be_set_by_the_standard_name_and_must_agree() -> None:
    config = ChatGLMConfig(num_attention_heads=4, hidden_size=64, kv_channels=16)
    config.num_key_value_heads = 2
    assert (config.multi_query_attention, config.multi_query_group_num) == (True, 2)
    config.num_key_value_heads = 4
    assert (config.multi_query_attention, config.num_key_value_heads) == (False, 4)
    for bad in (3, 0, "2", True):
        with pytest.raises(ValueError, match=f"{bad}"):
            ChatGLMConfig(
                num_attention_heads=4, multi_query_attention=True, multi_query_group_num=2, num_key_value_heads=bad
            )


def test_a_key_that_follows_from_others_may_be_there_and_must_agree(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    for key in ("use_return_dict", "rotary_dim", "qkv_size"):
        said = getattr(ChatGLMConfig.from_pretrained(folder), key)
        assert getattr(ChatGLMConfig.from_pretrained(written(folder, **{key: said})), key) == said
        with pytest.raises(ConfigError, match=f"'{key}' is 3"):
            ChatGLMConfig.from_pretrained(written(folder, **{key: 3}))
        written(folder, **{key: ...})


def test_tuples_are_given_only_to_those_who_ask(tmp_path: Path) -> None:
    folder = written(base_folder(tmp_path), return_dict=False)
    model: Any = AutoModel.from_pretrained(folder)
    plain: Any = AutoModel.from_pretrained(folder, return_dict=True)
    assert isinstance(model(IDS), tuple)
    assert torch.equal(model(IDS)[0], plain(IDS).logits)
    classifier: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    assert isinstance(classifier(IDS), tuple)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(model.generate(IDS, **options), plain.generate(IDS, **options))


def test_a_chat_does_not_depend_on_it(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo_folder(), tmp_path / "demo"))
    expected = [AutoModel.from_pretrained(folder).chat(AutoTokenizer.from_pretrained(folder), "你好", do_sample=False)]
    for keys in ({"return_dict": False}, {"hidden_dropout": None}, {"num_key_value_heads": 2}):
        model: Any = AutoModel.from_pretrained(written(folder, **keys))
        expected.append(model.chat(AutoTokenizer.from_pretrained(folder), "你好", do_sample=False))
    assert expected[0][0]
    assert all(answer == expected[0] for answer in expected)


@pytest.mark.parametrize("name", ["float16", "torch.float16", "torch.bfloat16"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_dtype_may_be_named_with_its_module(key: str, name: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    model = AutoModel.from_pretrained(folder, **{key: name})
    assert model.dtype == getattr(torch, name.removeprefix("torch."))
    for bad in ("torch.float99", "int8", "float8_e4m3fn", torch.int8, torch.float8_e4m3fn):
        with pytest.raises(ConfigError, match=re.escape(f"{bad!r} is no dtype")):
            AutoModel.from_pretrained(folder, **{key: bad})


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1018370\n"


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors",
        "pytorch_model.bin", "model.safetensors.index.json", "adapter_config.json", "adapter_model.safetensors",
        "prefix.bin",
    ],
)  # fmt: skip
def test_a_git_lfs_pointer_is_named_whatever_file_it_stands_for(name: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "model")
    (folder / "tokenizer.model").write_bytes(golden_file("tiny_tokenizer/tokenizer.model").read_bytes())
    for extra in ("generation_config.json", "tokenizer_config.json"):
        (folder / extra).write_text("{}")
    options: dict[str, Any] = {}
    if name == "pytorch_model.bin":
        as_bin(folder)
    elif name.endswith("index.json"):
        shard(folder)
    elif name.startswith("adapter"):
        options = {"adapter": tmp_path / "adapter"}
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter/adapter_config.json").write_text('{"peft_type": "LORA"}')
    elif name == "prefix.bin":
        options = {"prefix": tmp_path / name}
    file = (tmp_path if name == "prefix.bin" else options.get("adapter", folder)) / name
    file.write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="git-lfs pointer") as caught:
        load(folder, **options)
    assert name in str(caught.value)


def test_a_damaged_generation_config_is_named_by_every_way_of_loading(tmp_path: Path) -> None:
    folder = base_folder(tmp_path)
    for content in (POINTER, b"[1]", b"{"):
        (folder / "generation_config.json").write_bytes(content)
        for way in (AutoModel.from_pretrained, ChatGLMForConditionalGeneration.from_pretrained):
            with pytest.raises(CheckpointError, match="generation_config.json"):
                way(folder)
