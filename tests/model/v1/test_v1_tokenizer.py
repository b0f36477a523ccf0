"""The tokenizer of the first generation gives the official ids, masks, positions, texts and prompts."""

import shutil
from pathlib import Path
from typing import Any

import golden_v1
import pytest
import torch
from golden_v1 import golden_file, golden_json
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from chatglm.chat.first_rounds import AnswerText, process_response
from chatglm.chat.message import Message, Role
from chatglm.errors import CheckpointError, PromptError
from chatglm.model.stream_decoder import StreamDecoder
from chatglm.model.v1.tokenizer import ChatGLM1Tokenizer

STRINGS = golden_json("tokenization/strings.json")
TINY = golden_file("tiny_tokenizer")
KINDS = ["tiny", "real"] if golden_v1.REAL_TOKENIZER.is_file() and golden_v1.FULL.is_dir() else ["tiny"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatGLM1Tokenizer]:
    found = {"tiny": AutoTokenizer.from_pretrained(TINY)}
    if "real" in KINDS:
        folder = tmp_path_factory.mktemp("real")
        (folder / "ice_text.model").symlink_to(golden_v1.REAL_TOKENIZER)
        shutil.copy(TINY / "tokenizer_config.json", folder)
        found["real"] = AutoTokenizer.from_pretrained(folder)
    return found


@pytest.fixture(scope="module")
def tiny(tokenizers: dict[str, ChatGLM1Tokenizer]) -> ChatGLM1Tokenizer:
    return tokenizers["tiny"]


def check(case: dict[str, Any], key: str, found: Any) -> None:
    if "ok" in case[key]:
        assert found() == case[key]["ok"], key
    else:
        with pytest.raises((IndexError, ValueError, TypeError)):
            found()


@pytest.mark.parametrize("kind", KINDS)
def test_official_ids_and_texts(kind: str, tokenizers: dict[str, ChatGLM1Tokenizer]) -> None:
    tokenizer, golden = tokenizers[kind], golden_json(f"tokenization/chatglm1.{kind}.json")
    assert type(tokenizer) is ChatGLM1Tokenizer
    for given_text, case in zip(STRINGS, golden["strings"], strict=True):
        text = given_text["text"]
        if given_text["id"] in golden.get("version_dependent_string_ids", []):
            continue
        check(case, "sp_ids", lambda text=text: tokenizer.tokenizer.encode(text))
        check(case, "tokens", lambda text=text: tokenizer.tokenize(text))
        check(case, "input_ids", lambda text=text: tokenizer(text)["input_ids"])
        check(case, "input_ids_no_special", lambda text=text: tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = case["input_ids"]["ok"]
        check(case, "decode_full", lambda ids=ids: tokenizer.decode(ids))
        check(case, "decode_skip", lambda ids=ids: tokenizer.decode(ids, skip_special_tokens=True))
        bare = case["input_ids_no_special"]["ok"]
        check(case, "decode", lambda bare=bare: tokenizer.decode(bare))
    for case in golden["decode_cases"]:
        check(case, "decode", lambda case=case: tokenizer.decode(case["ids"]))
        check(case, "decode_skip", lambda case=case: tokenizer.decode(case["ids"], skip_special_tokens=True))
    for case in golden["decode_int"]:
        check(case, "decode", lambda case=case: tokenizer.decode(case["id"]))
    for case in golden["pairs"]:
        check(case, "input_ids", lambda case=case: tokenizer(case["a"], case["b"])["input_ids"])
    for name, token_id in golden["ids"].items():
        assert tokenizer.convert_tokens_to_ids(name) == token_id, name
    for name in ("vocab_size", "num_image_tokens", "pad_token_id", "bos_token_id", "eos_token_id", "gmask_token_id"):
        assert getattr(tokenizer, name) == golden[name], name


@pytest.mark.parametrize("kind", KINDS)
def test_official_batches(kind: str, tokenizers: dict[str, ChatGLM1Tokenizer]) -> None:
    for case in golden_json(f"tokenization/chatglm1.{kind}.json")["batches"]:
        found, expected = tokenizers[kind](case["texts"], **case["kwargs"]), case["result"]["ok"]
        assert found["input_ids"] == expected["input_ids"]
        assert ("position_ids" in found) == ("position_ids" in expected)
        if "position_ids" in expected:
            assert [positions.tolist() for positions in found["position_ids"]] == expected["position_ids"]
            rows = [["".join(str(int(bit)) for bit in row) for row in mask[0]] for mask in found["attention_mask"]]
            assert rows == expected["attention_mask_rows"]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_texts_while_they_are_written(kind: str, tokenizers: dict[str, ChatGLM1Tokenizer]) -> None:
    for case in golden_json(f"tokenization/chatglm1.{kind}.json")["incremental"]:
        decoder = StreamDecoder(tokenizers[kind])
        text = "".join(map(decoder.push, case["ids"])) + decoder.flush()
        assert text == tokenizers[kind].decode(case["ids"]) == case["prefixes"][-1]


@pytest.mark.parametrize("kind", KINDS)
def test_official_prompts(kind: str, tokenizers: dict[str, ChatGLM1Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    for case in golden_json("tokenization/chat_prompt.json"):
        if "ok" not in case[kind]:
            continue
        assert tokenizer.build_prompt(case["query"], case["history"]) == case["prompt"]
        turns = [
            (role, text) for pair in case["history"] for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        messages = [{"role": role, "content": text} for role, text in [*turns, ("user", case["query"])]]
        expected = case[kind]["ok"]["input_ids"][0]
        special = any(name in case["prompt"] for name in ("<sop>", "<eop>", "<unk>", "<pad>", "[MASK]"))
        assert (tokenizer.render(messages).ids == expected) is not special  # typed ones stay text
        if not special:
            assert tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == expected
        assert tokenizer.apply_chat_template(messages, tokenize=False) == case["prompt"]


@pytest.mark.skipif("real" not in KINDS, reason="needs the real tokenizer")
def test_official_training_rows(tokenizers: dict[str, ChatGLM1Tokenizer]) -> None:
    for case in golden_json("tokenization/ptuning_examples.json")["cases"]:
        messages = [{"role": "user", "content": case["prompt"]}, {"role": "assistant", "content": case["answer"]}]
        rendered = tokenizers["real"].render(messages, add_eos=True)
        labels = [i if learned else -100 for i, learned in zip(rendered.ids, rendered.loss_mask, strict=True)]
        length = len(rendered.ids)
        if length <= case["max_source_length"] and "history" not in case:
            assert rendered.ids == case["input_ids"][:length]
            assert labels == case["labels"][:length]


@pytest.mark.skipif("real" not in KINDS, reason="needs the real tokenizer")
def test_the_vocabulary_with_images(tmp_path: Path) -> None:
    golden = golden_json("tokenization/chatglm1.old150k.json")
    ties = golden_json("tokenization/chatglm1.real.json")["version_dependent_string_ids"]
    tokenizer = ChatGLM1Tokenizer(golden_v1.REAL_TOKENIZER)
    pairs = [pair for pair in zip(STRINGS, golden["strings"], strict=False) if pair[0]["id"] not in ties]
    for given_text, case in pairs:
        assert tokenizer(given_text["text"])["input_ids"] == case["input_ids"]["ok"]
    for case in golden["image_token_decode"]:
        assert tokenizer.decode(case["ids"]) == case["decode"]["ok"]
    for name, token_id in golden["ids"].items():
        assert tokenizer.convert_tokens_to_ids(name) == token_id


def test_official_form_of_answers() -> None:
    for case in golden_json("tokenization/process_response.json"):
        assert process_response(case["in"]) == case["out"]


class _Characters:
    """A decoder whose ids are characters."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


@settings(max_examples=200)
@given(st.lists(st.sampled_from([*"中a,!;? 2", "[[训练时间]]", "[[训", "时间]]"]), max_size=12).map("".join))
def test_the_parts_of_an_answer_join_to_its_official_form(text: str) -> None:
    decoder = AnswerText(_Characters())
    shown = "".join(decoder.push(ord(character)) for character in text) + decoder.flush()
    assert shown.strip() == process_response(text)


def test_saved_and_loaded(tiny: ChatGLM1Tokenizer, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is ChatGLM1Tokenizer
    assert again.num_image_tokens == 0
    assert (tmp_path / "ice_text.model").read_bytes() == (TINY / "ice_text.model").read_bytes()
    for text in ("你好\n  x\t😀。", "a<sop>b", "[MASK]"):
        assert again(text)["input_ids"] == tiny(text)["input_ids"]


def test_a_user_cannot_end_a_prompt(tiny: ChatGLM1Tokenizer) -> None:
    ids = tiny.render([Message(Role.USER, "a <sop> b [gMASK] c <eop>")]).ids
    for special in (tiny.bos_token_id, tiny.gmask_token_id, tiny.eos_token_id):
        assert special not in ids[:-2]


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}], "system"),
        ([{"role": "user", "content": "y"}, {"role": "user", "content": "y"}], "user"),
        ([], "empty"),
    ],
)
def test_conversations_without_a_form(tiny: ChatGLM1Tokenizer, messages: list[Any], word: str) -> None:
    with pytest.raises(PromptError, match=word):
        tiny.render(messages)


def test_what_is_refused(tiny: ChatGLM1Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="left"):
        tiny("a", padding="max_length", max_length=9, padding_side="right")
    (tmp_path / "ice_text.model").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="SentencePiece"):
        ChatGLM1Tokenizer(tmp_path / "ice_text.model")
    with pytest.raises(CheckpointError, match=r"ice_text\.model"):
        ChatGLM1Tokenizer()


def test_tensors_for_the_model(tiny: ChatGLM1Tokenizer) -> None:
    batch = tiny(["a", "b c d e"], padding=True, return_tensors="pt")
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["attention_mask"].shape == (2, 1, *[batch["input_ids"].shape[1]] * 2)
    assert batch["position_ids"].shape == (2, 2, batch["input_ids"].shape[1])
