"""The tokenizer of a stock GLM folder, read by plain transformers: the ids are the official ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from golden_data import REAL_TOKENIZER, golden_file, golden_roots
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_folders import base_folder
from transformers import AutoTokenizer

from chatglm.errors import CheckpointError
from chatglm.folders.convert import to_glm, to_official
from chatglm.folders.fast_tokenizer import ROLE_TOKENS, SPECIAL_TOKENS, stock_tokenizer

MARKERS = (*SPECIAL_TOKENS, *ROLE_TOKENS, "</s>", "<unk>")
FILES = {"tiny": Path("tiny_tokenizer/tokenizer.model"), "real": REAL_TOKENIZER}
KINDS = [kind for kind, path in FILES.items() if any((root / path).is_file() for root in golden_roots())]


def golden_json(name: str) -> Any:
    return json.loads(golden_file(f"tokenization/{name}").read_text())


def glm_folder(kind: str, target: Path) -> Path:
    folder = base_folder(target / "official")
    shutil.copyfile(golden_file(str(FILES[kind])), folder / "tokenizer.model")
    return to_glm(folder, target / "glm")


@pytest.fixture(scope="module", params=KINDS)
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    kind = request.param
    return kind, AutoTokenizer.from_pretrained(glm_folder(kind, tmp_path_factory.mktemp(kind)))


def test_plain_text_gives_the_recorded_ids(stock: tuple[str, Any]) -> None:
    kind, tokenizer = stock
    texts = [item["text"] for item in golden_json("strings.json")]
    recorded = golden_json(f"chatglm3.{kind}.json")["strings"]
    compared = 0
    for text, expected in zip(texts, recorded, strict=True):
        if "ok" not in expected["input_ids"] or any(marker in text for marker in MARKERS):
            continue
        assert tokenizer(text)["input_ids"] == expected["input_ids"]["ok"], text
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected["input_ids_no_special"]["ok"]
        if "ok" in expected.get("decode_sp", {}):
            assert tokenizer.decode(expected["sp_ids"]["ok"]) == expected["decode_sp"]["ok"]
        compared += 1
    assert compared > 20


def test_the_chat_template_gives_the_recorded_ids(stock: tuple[str, Any]) -> None:
    kind, tokenizer = stock
    compared = 0
    for case in golden_json(f"chat_input.{kind}.json")["conversations"]:
        messages = [*(case.get("history") or []), {"role": case["role"], "content": case["query"]}]
        if "ok" not in case["result"] or not writable(messages):
            continue
        found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert found == case["result"]["ok"]["input_ids"][0], case["name"]
        compared += 1
    assert compared > 5


def writable(messages: list[dict[str, Any]]) -> bool:
    """Conversations a text can stand for: no markers in it, no metadata of two lines, no tools that are no tools."""
    return not any(
        any(marker in json.dumps(message, ensure_ascii=False) for marker in MARKERS)
        or "\n" in (message.get("metadata") or "")
        or ("tools" in message and not message["tools"])
        for message in messages
    )


def test_batches_are_padded_on_the_left(stock: tuple[str, Any]) -> None:
    _, tokenizer = stock
    batch = tokenizer(["a", "你好 world"], padding=True)
    assert batch["input_ids"][0][0] == 0
    assert batch["attention_mask"][0][0] == 0
    assert "token_type_ids" not in batch


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    path = golden_file(str(FILES["tiny"]))
    return sentencepiece.SentencePieceProcessor(model_file=str(path)), stock_tokenizer(path)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), st.text(alphabet=" \n\tab1的是-=_．"), st.text(alphabet="sopehint ")))
def test_any_text_gives_the_ids_of_sentencepiece(tiny: tuple[Any, Any], text: str) -> None:
    pieces, fast = tiny
    if not any(marker in text for marker in MARKERS):
        assert fast.encode(text, add_special_tokens=False).ids == pieces.encode(text)


def test_the_official_tokenizer_comes_back(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "official")
    shutil.copyfile(golden_file(str(FILES["tiny"])), folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer", "x": [1]}))
    back = to_official(to_glm(folder, tmp_path / "glm"), tmp_path / "back")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        first, second = (path / name for path in (folder, back))
        assert second.read_bytes() == first.read_bytes() or json.loads(second.read_text()) == json.loads(
            first.read_text()
        )
    assert not (back / "tokenizer.json").exists()


def test_end_tokens_follow_the_generation(tmp_path: Path) -> None:
    glm = glm_folder("tiny", tmp_path)
    assert json.loads((glm / "generation_config.json").read_text())["eos_token_id"] == [2, 1506, 1508]
    folder = tmp_path / "official"
    (folder / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "THUDM/chatglm2-6b"}))
    older = to_glm(folder, tmp_path / "older")
    assert json.loads((older / "config.json").read_text())["eos_token_id"] == [2]
    tokenizer = AutoTokenizer.from_pretrained(older)
    assert len(tokenizer) == 1500 + 5
    for case in golden_json("chatglm2_prompt.tiny.json"):
        turns = [text for turn in case["history"] for text in turn] + [case["query"]]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
        if "ok" in case["result"]["input_ids"] and writable(messages):
            found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
            assert found == case["result"]["input_ids"]["ok"], case["name"]


def test_a_vocabulary_with_other_rules_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Hello world, how are you?\n" * 200)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "other"), vocab_size=40, model_type="unigram",
        hard_vocab_limit=False, minloglevel=9,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        stock_tokenizer(tmp_path / "other.model")
