"""The tiny vocabulary keeps the rules of the official one, and the loss mask covers answers only."""

import hashlib
import json
from importlib.metadata import version

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from chatglm.agent.prompts import system_message
from chatglm.demo import WEIGHTS
from chatglm.demo.conversation import Conversation
from chatglm.demo.encoding import SPECIAL_TOKENS, Encoder, Example
from chatglm.demo.packing import collate
from chatglm.demo.recipe import text_sha256
from chatglm.demo.spm import VOCAB_SIZE, train_vocabulary
from chatglm.demo.text import Turn

RECIPE = json.loads((WEIGHTS / "RECIPE.json").read_text(encoding="utf-8"))
ENCODER = Encoder(WEIGHTS / "tokenizer.model")
PIECES = ENCODER.pieces


@pytest.mark.skipif(
    RECIPE.get("text_sha256") != text_sha256(), reason="the weights in the tree were made from an earlier text"
)
@pytest.mark.skipif(
    version("sentencepiece") != RECIPE["sentencepiece"], reason="the bytes belong to one version of the library"
)
def test_the_recipe_gives_the_shipped_vocabulary() -> None:
    made = train_vocabulary(RECIPE["recipe"]["vocabulary_seed"])
    assert hashlib.sha256(made).hexdigest() == RECIPE["tokenizer_sha256"]


def test_first_ids_are_the_official_ones() -> None:
    assert [PIECES.id_to_piece(index) for index in range(3)] == ["<unk>", "<s>", "</s>"]
    assert PIECES.pad_id() == -1
    assert all(PIECES.id_to_piece(3 + byte) == f"<0x{byte:02X}>" for byte in range(256))
    assert not any(PIECES.is_control(index) for index in range(3, PIECES.get_piece_size()))


def test_special_tokens_follow_the_pieces() -> None:
    first = PIECES.get_piece_size()
    assert [ENCODER.specials[token] for token in SPECIAL_TOKENS] == list(range(first, first + 9))
    assert ENCODER.vocab_size % 64 == 0


@given(st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    assert PIECES.decode(ENCODER.encode(text)) == text


def test_digits_and_chinese_characters_are_pieces_of_their_own() -> None:
    assert PIECES.encode("1234", out_type=str) == ["▁", "1", "2", "3", "4"]
    assert PIECES.encode("我叫小明", out_type=str) == ["▁", "我", "叫", "小", "明"]


def test_role_markers_in_text_stay_text() -> None:
    assert not set(ENCODER.encode("<|user|> [gMASK] </s>")) & set(ENCODER.specials.values())


def test_only_answers_and_what_ends_them_are_learned() -> None:
    turns = (Turn("Hi", "Hello!", ("Hello!",)), Turn("谢谢", "不客气！", ("不客气！",)))
    example = ENCODER.example(Conversation("Be kind.", turns))
    learned = [token for token, counts in zip(example.ids, example.learned, strict=True) if counts]
    user = ENCODER.specials["<|user|>"]
    line = ENCODER.encode("\n")
    assert learned == [*line, *ENCODER.encode("Hello!"), user, *line, *ENCODER.encode("不客气！"), user]


def test_a_prompt_is_the_beginning_of_its_example() -> None:
    turns = (Turn("Hi", "Hello!", ("Hello!",)), Turn("谢谢", "不客气！", ("不客气！",)))
    prompt = ENCODER.prompt(turns[:1], "谢谢", None)
    assert ENCODER.example(Conversation(None, turns)).ids[: len(prompt)] == prompt


def test_collate_shifts_and_pads_on_the_right() -> None:
    batch = collate([Example([5, 6, 7], [False, True, True]), Example([8, 9], [False, True])])
    assert batch.input_ids.tolist() == [[5, 6], [8, 0]]
    assert batch.targets.tolist() == [[6, 7], [9, 0]]
    assert batch.learned.tolist() == [[True, True], [True, False]]
    assert batch.segments.tolist() == [[1, 1], [1, 0]]


def test_pieces_model_can_be_read_from_bytes() -> None:
    model = (WEIGHTS / "tokenizer.model").read_bytes()
    assert sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size() == PIECES.get_piece_size()


def test_a_seed_decides_the_vocabulary() -> None:
    made = train_vocabulary(3, 60)
    assert train_vocabulary(3, 60) == made
    pieces = sentencepiece.SentencePieceProcessor(model_proto=made)
    assert VOCAB_SIZE < pieces.get_piece_size() < 1.2 * VOCAB_SIZE
    program = "for n in range(3):\n    print(n)\n"
    assert pieces.decode(pieces.encode(program)) == program


def test_what_lies_between_the_words_of_a_schema_is_one_piece() -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=train_vocabulary(3, 300))
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "name"}},
        "required": ["city"],
    }
    tool = {"name": "weather", "description": "now", "parameters": parameters}
    system = system_message(None, [tool], code=False)
    assert system is not None
    found = pieces.encode(system.text(), out_type=str)
    assert len(found) < 20
    assert pieces.decode(found) == system.text()
    assert [piece for piece in found if "\n" in piece][1:] == [
        piece.replace(" ", "▁")
        for piece in (
            '",\n        "description": "',
            '",\n        "parameters": {\n            "type": "object",\n            "properties": '
            '{\n                "',
            '": {\n                    "type": "string",\n                    "description": "',
            '"\n                }\n            },\n            "required": [\n                "',
            '"\n            ]\n        }\n    }\n]',
        )
    ]
    assert pieces.encode("你是谁？", out_type=str) == ["▁", "你", "是", "谁", "？"]
