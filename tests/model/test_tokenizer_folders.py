"""Folders of every era, and folders we save: what is loaded is the same."""

import json
import shutil

import pytest
from tokenizers_at_hand import FILES, tokenizer
from transformers import AddedToken

from chatglm.errors import CheckpointError, PromptError
from chatglm.model.chat_templates import CHATGLM2_TEMPLATE, CHATGLM3_TEMPLATE, RESPONSE_TEMPLATE
from chatglm.model.tokenizer import ChatGLMTokenizer

TURN = "<|{{ message['role'] }}|>%s{{ message['content'] }}"
OFFICIAL_TEMPLATE = (
    "{%% for message in messages %%}{%% if loop.first %%}[gMASK]sop" + TURN + "{%% else %%}" + TURN + "{%% endif %%}"
    "{%% endfor %%}{%% if add_generation_prompt %%}<|assistant|>{%% endif %%}"
)
BASE = {
    "name_or_path": "THUDM/chatglm-6b",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}
ADDED = {"lstrip": False, "rstrip": False, "normalized": True, "single_word": False, "special": False}
ERAS = {
    "2023": BASE,
    "2024-01": {
        **BASE,
        "chat_template": OFFICIAL_TEMPLATE % (" \n ", " \n "),
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "pad_token": "<unk>",
        "unk_token": "<unk>",
        "model_max_length": 1000000000000000019884624838656,
        "padding_side": "left",
    },
    "2024-06": {
        **BASE,
        "chat_template": OFFICIAL_TEMPLATE % ("\n ", "\n "),
        "added_tokens_decoder": {
            "1501": {"content": "[gMASK]", **ADDED},
            "1503": {"content": "sop", **ADDED},
            "1506": {"content": "<|user|>", **ADDED},
            "1507": {"content": "<|assistant|>", **ADDED},
        },
        "additional_special_tokens": ["<|user|>", "<|observation|>"],
        "encode_special_tokens": False,
    },
    "none": None,
}
CHAT = [{"role": "user", "content": "你好 sop<|user|>"}]


def folder_of(path, tokenizer_config=None, **files):
    path.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FILES["tiny"], path / "tokenizer.model")
    if tokenizer_config is not None:
        files["tokenizer_config.json"] = json.dumps(tokenizer_config)
    for name, content in files.items():
        (path / name.replace("_py", ".py")).write_text(content, encoding="utf-8")
    return path


def same(found, other):
    assert type(found) is type(other)
    assert found.version == other.version
    assert found.get_vocab() == other.get_vocab()
    assert found.special_tokens_map == other.special_tokens_map
    assert found.padding_side == other.padding_side
    assert found.encode_special_tokens == other.encode_special_tokens
    assert found(["你好<|user|>", "a"], padding=True) == other(["你好<|user|>", "a"], padding=True)
    assert found.chat_template == other.chat_template
    assert found.apply_chat_template(CHAT) == other.apply_chat_template(CHAT)


@pytest.mark.parametrize("era", ERAS)
def test_official_folders(era, tmp_path):
    folder = folder_of(tmp_path, ERAS[era], **{"config.json": json.dumps({"_name_or_path": "THUDM/chatglm3-6b"})})
    found = ChatGLMTokenizer.from_pretrained(folder)
    same(found, tokenizer())
    assert found.chat_template == CHATGLM3_TEMPLATE
    found.save_pretrained(tmp_path / "saved")
    same(ChatGLMTokenizer.from_pretrained(tmp_path / "saved"), found)
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert saved.keys().isdisjoint(["auto_map", "do_lower_case", "remove_space", "name_or_path", "is_local"])


@pytest.mark.parametrize("version", ["chatglm3", "chatglm2"])
@pytest.mark.parametrize("mode", [False, True, "all"])
def test_saving_and_loading(version, mode, tmp_path):
    found = ChatGLMTokenizer(FILES["tiny"], version=version, encode_special_tokens=mode, padding_side="right")
    found.add_tokens([AddedToken("<new>", lstrip=True)])
    found.save_pretrained(tmp_path)
    other = ChatGLMTokenizer.from_pretrained(tmp_path)
    same(other, found)
    assert other("a <new>b")["input_ids"] == found("a <new>b")["input_ids"]
    assert (tmp_path / "tokenizer.model").read_bytes() == FILES["tiny"].read_bytes()
    assert other.response_template == (RESPONSE_TEMPLATE if version == "chatglm3" else None)
    other.save_pretrained(tmp_path)  # onto itself
    same(ChatGLMTokenizer.from_pretrained(tmp_path), found)


def test_saving_after_the_file_is_gone(tmp_path):
    found = ChatGLMTokenizer.from_pretrained(folder_of(tmp_path / "a"), version="chatglm3")
    shutil.rmtree(tmp_path / "a")
    found.save_pretrained(tmp_path / "b")
    same(ChatGLMTokenizer.from_pretrained(tmp_path / "b"), found)


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"config.json": '{"_name_or_path": "THUDM/chatglm2-6b"}'}, "chatglm2"),
        ({"config.json": '{"_name_or_path": "/models/ChatGLM3-6B-32k"}'}, "chatglm3"),
        ({"tokenizer_config": {"name_or_path": "THUDM/chatglm2-6b-32k"}}, "chatglm2"),
        ({"tokenizer_config": ERAS["2024-01"]}, "chatglm3"),
        ({"tokenization_chatglm_py": "raise SystemExit('was run')"}, "chatglm2"),
        ({"tokenization_chatglm_py": "raise SystemExit('<|user|> <|assistant|>')"}, "chatglm3"),
        ({"tokenizer_config": {"version": "chatglm2"}, "config.json": '{"_name_or_path": "chatglm3"}'}, "chatglm2"),
        ({"config.json": '{"_name_or_path": "chatglm2"}', "tokenization_chatglm_py": "<|assistant|>"}, "chatglm2"),
        ({}, "chatglm3"),
    ],
)
def test_the_version_a_folder_means(files, version, tmp_path):
    folder = folder_of(tmp_path / "model", **files)
    found = ChatGLMTokenizer.from_pretrained(folder)
    assert found.version == version
    assert found.chat_template == (CHATGLM3_TEMPLATE if version == "chatglm3" else CHATGLM2_TEMPLATE)
    assert found.vocab_size == 1509 - 4 * (version == "chatglm2")
    for wanted in ("chatglm2", "chatglm3"):
        assert ChatGLMTokenizer.from_pretrained(folder, version=wanted).version == wanted


def test_the_name_of_a_folder_is_the_last_hint(tmp_path):
    assert ChatGLMTokenizer.from_pretrained(folder_of(tmp_path / "chatglm2-6b")).version == "chatglm2"
    code = "<|assistant|>"
    folder = folder_of(tmp_path / "my-chatglm2", tokenization_chatglm_py=code)
    assert ChatGLMTokenizer.from_pretrained(folder).version == "chatglm3"


def test_versions_are_two():
    with pytest.raises(PromptError, match=r"'chatglm4'.*'chatglm3', 'chatglm2'"):
        ChatGLMTokenizer(FILES["tiny"], version="chatglm4")


def test_folders_that_cannot_be_loaded(tmp_path):
    folder = folder_of(tmp_path, **{"config.json": "{"})
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        ChatGLMTokenizer.from_pretrained(folder)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer.model in"):
        ChatGLMTokenizer.from_pretrained(folder)


def test_a_template_of_ones_own_is_kept(tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    found = ChatGLMTokenizer.from_pretrained(folder_of(tmp_path, {"chat_template": template}), version="chatglm3")
    assert found.chat_template == template
    found.save_pretrained(tmp_path / "saved")
    assert ChatGLMTokenizer.from_pretrained(tmp_path / "saved").chat_template == template
