"""Laws of the tokenizer as transformers knows it: round trips, batches, padding, cutting, special and added tokens."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_at_hand import FILES, tokenizer

from chatglm.errors import CheckpointError, PromptError
from chatglm.model.tokenizer import ChatGLMTokenizer

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
TEXTS = st.lists(TEXT, min_size=1, max_size=4)


@pytest.fixture
def fresh():
    return ChatGLMTokenizer(FILES["tiny"], version="chatglm3")


@pytest.mark.parametrize("name", FILES)
@given(TEXT)
def test_decoding_gives_the_text_back(name, text):
    found = tokenizer(name)
    ids = found(text, add_special_tokens=False)["input_ids"]
    assert found.decode(ids) == text.replace("\u2581", " ")  # the one character that is lost
    assert found.convert_tokens_to_ids(found.tokenize(text)) == ids == found.encode(text)[2:]
    assert found.convert_tokens_to_string(found.tokenize(text)) == found.decode(ids)


@given(TEXTS)
def test_a_batch_is_its_rows(texts):
    found = tokenizer()
    batch = found(texts)
    for row, text in enumerate(texts):
        assert {key: values[row] for key, values in batch.items()} == dict(found(text))
    assert found.tokenizer.encode_batch(texts * 20) == [found.tokenizer.encode(text) for text in texts * 20]


def test_much_text_is_encoded_as_little_is():
    found = tokenizer()
    texts = [f"第{number}行 line {number}\n" * 200 for number in range(40)]
    assert found(texts)["input_ids"] == [found(text)["input_ids"] for text in texts]
    with pytest.raises(PromptError, match="lone surrogate"):
        found([*texts, "\ud800"])


@given(TEXTS, st.sampled_from(["left", "right", None]), st.sampled_from([None, 8]))
def test_pads_count_for_nothing(texts, side, multiple):
    found = tokenizer()
    batch = found(texts, padding=True, padding_side=side, pad_to_multiple_of=multiple, return_tensors="pt")
    width = batch["input_ids"].shape[1]
    assert width % (multiple or 1) == 0
    for ids, mask, positions, text in zip(*batch.values(), texts, strict=True):
        plain = torch.tensor(found(text)["input_ids"])
        pads = width - len(plain)
        inside = slice(0, len(plain)) if side == "right" else slice(pads, None)
        assert torch.equal(ids[inside], plain)
        assert torch.equal(positions[inside], torch.arange(len(plain)))
        assert mask.sum() == len(plain) == mask[inside].sum()
        assert ids.sum() == plain.sum()
        assert positions.sum() == torch.arange(len(plain)).sum()


@given(TEXT, TEXT, st.integers(4, 12), st.sampled_from(["longest_first", "only_first", "only_second"]))
def test_cut_sequences_fit(first, second, length, strategy):
    found = tokenizer()
    ids, pair = found.tokenizer.encode(first), found.tokenizer.encode(second)
    row = found(first, second, truncation=strategy, max_length=length)["input_ids"]
    excess = len(ids) + len(pair) + 3 - length
    cut = {"only_first": ids, "only_second": pair}.get(strategy)
    if excess > 0 and cut is not None and len(cut) <= excess:
        assert row == found(first, second)["input_ids"]  # nothing to cut: said in the log, as officially
        return
    assert len(row) == min(length, len(ids) + len(pair) + 3)
    kept = len(row) - 3
    of_first = next(n for n in range(kept + 1) if row == [*row[:2], *ids[:n], *pair[: kept - n], 2])
    assert of_first <= len(ids)


def test_cutting_on_the_left(fresh):
    ids = fresh("abcdef")["input_ids"]
    fresh.truncation_side = "left"
    assert fresh("abcdef", truncation=True, max_length=4)["input_ids"] == [*ids[:2], *ids[-2:]]


def test_what_was_cut_off_can_be_had():
    found = tokenizer()
    ids = found.tokenizer.encode("一二三四五六")
    row = found("一二三四五六", truncation=True, max_length=6, stride=1, return_overflowing_tokens=True)
    assert row["input_ids"][2:] == ids[:4]
    assert row["overflowing_tokens"] == ids[3:]
    assert row["num_truncated_tokens"] == len(ids) - 4


@given(TEXT)
def test_offsets_lead_to_the_text_of_each_id(text):
    found = tokenizer()
    row = found(text, return_offsets_mapping=True, add_special_tokens=False)
    assert row["input_ids"] == found.tokenizer.encode(text)
    last = 0
    for token, (begin, end) in zip(row["input_ids"], row["offset_mapping"], strict=True):
        surface = found.surface(token)
        place = text[begin:end].replace(" ", "\u2581")
        assert place == surface.removeprefix("\u2581" * (begin == 0)) if isinstance(surface, str) else len(place) == 1
        assert begin in (last, max(last - 1, 0))
        last = end
    assert last == len(text)


def test_offsets_with_the_rest():
    found = tokenizer()
    row = found("你好", "b", return_offsets_mapping=True, padding="max_length", max_length=9)
    assert row["offset_mapping"][-6:] == [(0, 0), (0, 0), (0, 0), (0, 2), (0, 1), (0, 0)][-6:]
    assert len(row["offset_mapping"]) == 9
    words = found(["a", "bc"], is_split_into_words=True, return_offsets_mapping=True)
    assert words["input_ids"][2:] == found.tokenizer.encode("a") + found.tokenizer.encode("bc")
    assert max(words["offset_mapping"]) == (1, 2) or max(words["offset_mapping"]) == (0, 2)


def test_masks_of_special_tokens():
    found = tokenizer()
    row = found("a", "b", return_special_tokens_mask=True, return_token_type_ids=True, return_length=True)
    body = len(found.tokenizer.encode("a")) + len(found.tokenizer.encode("b"))
    assert row["special_tokens_mask"] == [1, 1, *[0] * body, 1]
    assert row["special_tokens_mask"] == found.get_special_tokens_mask(
        found.tokenizer.encode("a"), found.tokenizer.encode("b")
    )
    assert row["special_tokens_mask"] == found.get_special_tokens_mask(
        row["input_ids"], already_has_special_tokens=True
    )
    assert row["length"] == len(row["token_type_ids"]) == body + 3


def test_a_collator_can_pad():
    found = tokenizer()
    features = [{"input_ids": found(text)["input_ids"]} for text in ("你好", "a longer text")]
    assert found.pad(features, return_tensors="pt")["position_ids"][0, 0] == 0
    assert dict(found.pad(features)) == dict(found(["你好", "a longer text"], padding=True))


@pytest.mark.parametrize("text", [None, 5, [None], [5, "a"], ["a", 5], [["a", "b", "c"]]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(ValueError, match="text|tokenize"):
        tokenizer()(text)


def test_unknown_options_are_refused():
    with pytest.raises(PromptError, match="colour"):
        tokenizer()("a", colour="red")


# Special tokens

SPELLED = "a<|user|>b[gMASK]sop</s>"


def test_typed_markers_are_text_unless_asked_for():
    user = tokenizer().get_command("<|user|>")
    for mode, found in ((False, []), (True, [user]), ("roles", [user]), ("all", [user, 1501, 1503])):
        ids = tokenizer(encode_special_tokens=mode)(SPELLED, add_special_tokens=False)["input_ids"]
        assert [token for token in ids if token >= 1500] == found
        plain = tokenizer(encode_special_tokens=mode)(SPELLED, add_special_tokens=False, split_special_tokens=True)
        assert max(plain["input_ids"]) < 1500


def test_the_mode_can_be_changed_later(fresh):
    plain = fresh(SPELLED)
    fresh.encode_special_tokens = True
    assert fresh(SPELLED) != plain
    fresh.encode_special_tokens = False
    assert fresh(SPELLED) == plain
    with pytest.raises(PromptError, match="'some'.*'roles', 'all'"):
        fresh.encode_special_tokens = "some"


def test_skipping_special_tokens():
    found = tokenizer()
    ids = found("你好")["input_ids"] + [found.get_command("<|user|>"), *found.tokenizer.encode("世界"), 2]
    assert found.decode(ids) == "[gMASK]sop 你好<|user|> 世界"
    assert found.decode(ids, skip_special_tokens=True) == "你好 世界"
    assert found.convert_ids_to_tokens(ids[:2], skip_special_tokens=True) == []


def test_setting_pad_by_id(fresh):
    fresh.pad_token_id = fresh.eos_token_id
    assert (fresh.pad_token, fresh.pad_token_id) == ("</s>", 2)
    assert fresh(["a", "bcd"], padding=True)["input_ids"][0][0] == 2


def test_added_tokens(fresh):
    assert fresh.add_tokens(["<new>", "你好"]) == 1  # the second is a piece already
    assert (len(fresh), fresh.vocab_size) == (1510, 1509)
    ids = fresh("x<new>你好y", add_special_tokens=False)["input_ids"]
    assert [ids.count(1509), ids.count(871)] == [1, 1]
    assert fresh.decode(ids) == "x<new>你好 y"
    with pytest.raises(PromptError, match="offsets are not known"):
        fresh("x", return_offsets_mapping=True)
    assert fresh.add_special_tokens({"extra_special_tokens": ["<tool>"]}) == 1
    assert fresh.decode(fresh("a<tool>")["input_ids"], skip_special_tokens=True) == "a"


def test_get_command_lists_what_there_is():
    with pytest.raises(PromptError, match=r"'<\|critic\|>'.*<\|user\|>"):
        tokenizer().get_command("<|critic|>")


# Copies and mistakes


@pytest.mark.parametrize("twin", [copy.deepcopy, copy.copy, lambda found: pickle.loads(pickle.dumps(found))])  # noqa: S301
def test_copies_are_equal(twin, fresh):
    fresh.add_tokens(["<new>"])
    other = twin(fresh)
    assert other("你好👋<new>") == fresh("你好👋<new>")
    assert other.chat_template == fresh.chat_template
    assert len(other) == len(fresh)


def test_files_that_are_no_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match=r"'nowhere/tokenizer.model' cannot be read"):
        ChatGLMTokenizer("nowhere/tokenizer.model", version="chatglm3")
    path = tmp_path / "tokenizer.model"
    for content in (b"", b"<html>", FILES["tiny"].read_bytes()[:1000]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"tokenizer.model'.*not a SentencePiece model"):
            ChatGLMTokenizer(path, version="chatglm3")
    with pytest.raises(CheckpointError, match=r"no tokenizer.model"):
        ChatGLMTokenizer(None)


@pytest.mark.parametrize("name", FILES)
@given(
    st.lists(st.sampled_from(["a", "你好", " ", "\n", "\n\n", "\t", "👋", "▁", "\r\n", "x" * 9]), max_size=40).map(
        "".join
    )
)
def test_long_text_is_encoded_in_parts_without_a_seam(name, text):
    vocabulary = tokenizer(name).tokenizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatglm.model.vocabulary._PART", 5)
        assert vocabulary.encode(text) == vocabulary.sp_model.encode(text)
