"""A model without transformers is the same model: configuration, weights, tokens, ids."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_folders import EXPORTABLE, edit_config, golden_folder
from tokenizers_at_hand import FILES, tokenizer

from chatglm.bare_loading import load_for_engine
from chatglm.chat.message import Message, Role
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.errors import CheckpointError, ConfigError
from chatglm.loading import demo_folder, load
from chatglm.model.bare import BareLanguageModel
from chatglm.model.bare_tokenizer import BareTokenizer, bare_tokenizer
from chatglm.model.config import read_config
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.plain_config import STANDARD_NAMES, ConfigFields, PlainConfig

PROMPT = [30, 31, 35, 40, 31, 36, 44, 50]
READ = [field.name for field in fields(ConfigFields)] + [
    *STANDARD_NAMES,
    "num_key_value_heads",
    "qkv_size",
    "rotary_dim",
]


def options(model: Path | None, **changed: Any) -> Any:
    """Those of a command line that names a model and nothing else."""
    plain = dict.fromkeys(("dtype", "quantize", "hub", "adapter", "prefix", "rope_ratio_meaning"))
    return SimpleNamespace(**{"model": model, "device": "cpu", "no_cache": False, **plain, **changed})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model, to be changed."""
    return Path(shutil.copytree(demo_folder(), tmp_path / "model"))


def told(model: Any) -> Any:
    """Tokens of an answer and their likelihoods, to the last bit."""
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=2)
    done = Engine(model).generate([PROMPT], params)[0]
    return done.token_ids, done.logprobs


def case(name: str, tmp_path: Path) -> Path:
    found = golden_folder(name, tmp_path / name)
    shutil.copyfile(demo_folder() / "tokenizer.model", found / "tokenizer.model")
    edit_config(found, _name_or_path="THUDM/chatglm3-6b")
    return found


@pytest.mark.parametrize("name", EXPORTABLE)
def test_the_recorded_models_are_the_same(name: str, tmp_path: Path) -> None:
    found = case(name, tmp_path)
    plain, full = PlainConfig.read(found), read_config(found)
    assert {key: getattr(plain, key) for key in READ} == {key: getattr(full, key) for key in READ}
    bare, _ = load_for_engine(options(found, dtype="float32"))
    assert isinstance(bare, BareLanguageModel)
    whole = ChatGLMForConditionalGeneration.from_pretrained(found, dtype=torch.float32)
    assert {n: t.dtype for n, t in bare.named_parameters()} == {n: t.dtype for n, t in whole.named_parameters()}
    assert told(bare) == told(whole)


def test_packed_weights_stay_packed_and_give_the_same(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole, _ = load(folder, device="cpu", quantize="int4", cache=True)  # keeps a copy
    bare, _ = load_for_engine(options(folder, quantize="int4"))
    assert isinstance(bare, BareLanguageModel)
    assert told(bare) == told(whole)
    whole.save_pretrained(tmp_path / "packed")
    shutil.copyfile(folder / "tokenizer.model", tmp_path / "packed" / "tokenizer.model")
    edit_config(tmp_path / "packed", _name_or_path="THUDM/chatglm3-6b")
    packed, _ = load_for_engine(options(tmp_path / "packed"))
    assert isinstance(packed, BareLanguageModel)
    assert told(packed) == told(load(tmp_path / "packed", device="cpu")[0])


@pytest.mark.parametrize("name", FILES)
def test_the_tokenizers_are_the_same(name: str) -> None:
    full = tokenizer(name)
    bare = BareTokenizer(Path(full.vocab_file), full.version)
    text = "ChatGLM 你好，\n  世界 <|user|> 👋 [gMASK]"
    ids = full.encode_text(text)
    assert bare.encode_text(text) == ids
    for special in (True, False):
        assert (
            bare(text, add_special_tokens=special)["input_ids"] == full(text, add_special_tokens=special)["input_ids"]
        )
    assert bare.render([Message(Role.USER, text)]) == full.render([Message(Role.USER, text)])
    assert (len(bare), bare.stop_ids, bare.chat_specials) == (len(full), full.stop_ids, full.chat_specials)
    assert [bare.surface(i) for i in range(len(full))] == [full.surface(i) for i in range(len(full))]
    ends = [*ids, *full.chat_specials.values(), *ids]
    for skip in (False, True):
        assert bare.decode(ends, skip_special_tokens=skip) == full.decode(ends, skip_special_tokens=skip)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template"):
        assert getattr(bare, name) == getattr(full, name)


@pytest.mark.parametrize(
    "settings",
    [
        {"added_tokens_decoder": {"3072": {"content": "<new>"}}},
        {"extra_special_tokens": ["<new>"]},
        {"chat_template": "{{ messages }}"},
        {"encode_special_tokens": True},
        {"eos_token": "<|user|>"},
        {"version": "chatglm9"},
    ],
)
def test_a_tokenizer_that_says_more_is_left_to_transformers(folder: Path, settings: dict[str, Any]) -> None:
    assert bare_tokenizer(folder) is not None
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert bare_tokenizer(folder) is None


def test_what_only_transformers_can_do_is_left_to_it(folder: Path) -> None:
    (folder / "added_tokens.json").write_text("{}")
    model, tokenizer = load_for_engine(options(folder))
    assert isinstance(model, ChatGLMForConditionalGeneration)
    assert tokenizer("你好")["input_ids"]


def test_damage_is_told_in_the_same_words(folder: Path) -> None:
    edit_config(folder, num_layers=5)
    for call in (lambda: load(folder, device="cpu"), lambda: load_for_engine(options(folder))):
        with pytest.raises(CheckpointError, match="unexpected tensor 'transformer.encoder.layers.5"):
            call()
    edit_config(folder, num_layers=0)
    for call in (lambda: load(folder, device="cpu"), lambda: load_for_engine(options(folder))):
        with pytest.raises(ConfigError, match="'num_layers' is 0"):
            call()
