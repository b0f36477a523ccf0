"""Train the tiny model's own SentencePiece vocabulary, with the settings of the official one.

Pieces are learned from text without Chinese; every Chinese character is one piece of its own. Otherwise whole phrases
such as a city with its neighbours become one piece and a name inside them cannot be copied. What stands between the
words of a tool's schema, around a call and in the product's own prompts is the same every time, and one piece for each
stretch: a conversation with tools takes half the tokens, and what is to be copied stands close to where it is copied.
"""

import io
import random
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatglm.agent.prompts import CODE_PROMPT
from chatglm.chat.call import format_tool_call
from chatglm.chat.template import TOOLS_PROMPT
from chatglm.demo.conversation import SYSTEM_PROMPTS, chat, with_code, with_tools
from chatglm.demo.pools import english_name, english_word
from chatglm.demo.text import is_chinese
from chatglm.demo.wording import FOLDER

VOCAB_SIZE = 4700  # learned pieces; those that grow to whole stretches come on top
CONVERSATIONS = 2_000  # of each kind
OPTIONS: dict[str, Any] = {
    "model_type": "bpe",
    "vocab_size": VOCAB_SIZE,
    "character_coverage": 1.0,
    "byte_fallback": True,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "max_sentencepiece_length": 24,
    "split_by_unicode_script": True,
    "split_by_whitespace": True,
    "split_by_number": True,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "num_threads": 1,
    "input_sentence_size": 0,
    "shuffle_input_sentence": False,
    "hard_vocab_limit": True,
    "minloglevel": 2,
}
PUNCTUATION = "，。？！：；、“”‘’（）《》【】—…·～￥"


# Between two words of a schema: marks, blanks, and the keys and types that JSON schemas are made of.
_BETWEEN = re.compile(
    r"""(?:[\s\[\]{},]|"(?:name|description)":\ "|"type":\ "(?:string|integer|number|boolean|object|array)"
    |"(?:parameters|properties|items)":\ \{|"(?:required|enum|params)":\ \[|"required":\ (?:true|false)|":\ \{|")+""",
    re.VERBOSE,
)


def train_vocabulary(seed: int, conversations: int = CONVERSATIONS) -> bytes:
    """The serialized SentencePiece model; the same bytes for the same arguments and library version."""
    import sentencepiece

    texts = list(_texts(seed, conversations))
    characters = {character for text in texts for character in text if not character.isspace()} | _extra_characters()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_without_chinese(texts, seed)),
        model_writer=model,
        required_chars="".join(sorted(characters)),
        **OPTIONS,
    )
    return _with_stretches(model.getvalue(), _stretches(texts))


def write_vocabulary(folder: Path, seed: int) -> Path:
    """Train and write `tokenizer.model` into a folder."""
    path = folder / "tokenizer.model"
    path.write_bytes(train_vocabulary(seed))
    return path


def _texts(seed: int, conversations: int) -> Iterator[str]:
    """Messages of all kinds of conversations, each text as it is encoded."""
    yield from SYSTEM_PROMPTS
    rng = random.Random(seed)
    for make in (chat, with_tools, with_code):
        for _ in range(conversations):
            for message in make("train", rng).messages():
                yield message.text()
                if message.metadata:
                    yield message.metadata + "\n"


def _stretches(texts: Sequence[str]) -> list[str]:
    """What is one piece each, the longest first."""
    call = format_tool_call({"x": ""})
    around = [" " + call[: call.index("(") + 1], call[call.index("')") :], " ```python\n"]
    schemas = [text for text in texts if TOOLS_PROMPT in text]
    listing = {found for text in schemas for found in _BETWEEN.findall(text) if "\n" in found.strip()}
    # The first word of a prompt is another piece at the beginning of a line than at that of a message.
    opening = [TOOLS_PROMPT.removeprefix("Answer") + found for found in listing if found.startswith("\n[")]
    sentences = re.findall("[^。]+。", CODE_PROMPT)
    return sorted([*around, *opening, *sentences, *listing], key=lambda one: (-len(one), one))


def _with_stretches(model: bytes, stretches: Sequence[str]) -> bytes:
    """The model with pieces that grow to each of the stretches, by merges after all learned ones.

    A piece grows from the first part that is no Chinese character, to the right and then to the left: what begins with
    two characters of a prompt would be found in other sentences too. The longest stretch grows first, so that a shorter
    one does not cut into it.
    """
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    known = {pieces.id_to_piece(index) for index in range(pieces.get_piece_size())}
    score = min(pieces.get_score(index) for index in range(pieces.get_piece_size()))
    added = b""
    for stretch in stretches:
        parts = pieces.encode("0" + stretch, out_type=str)[2:]  # a digit joins nothing, where a dummy blank would
        first = next(index for index, part in enumerate(parts) if not is_chinese(part))
        grown = ["".join(parts[first:end]) for end in range(first + 2, len(parts) + 1)]
        grown += ["".join(parts[start:]) for start in reversed(range(first))]
        for piece in grown:
            if piece not in known:
                known.add(piece)
                score -= 1
                added += _piece_message(piece, score)
    return model + added  # repeated fields of a message may stand anywhere in it


def _piece_message(piece: str, score: float) -> bytes:
    """One entry of a model file (sentencepiece_model.proto: field 1 of the model; piece 1, score 2)."""
    text = piece.encode()
    inner = b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", score)
    return b"\x0a" + _varint(len(inner)) + inner


def _varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + _varint(number >> 7) if number > 127 else bytes([number])


def _without_chinese(texts: list[str], seed: int) -> list[str]:
    rng = random.Random(seed)
    words = [f"{english_name('train', rng)} {english_word('train', rng)}" for _ in range(2000)]
    return [text for text in texts if not is_chinese(text)] + words


def _extra_characters() -> set[str]:
    printable = {chr(code) for code in range(33, 127)}
    written = {character for file in FOLDER.glob("*.txt") for character in file.read_text(encoding="utf-8")}
    return printable | set(PUNCTUATION) | {character for character in written if not character.isspace()}
