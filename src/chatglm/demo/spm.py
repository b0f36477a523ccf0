"""Train the tiny model's own SentencePiece vocabulary, with the settings of the official one.

Pieces are learned from text without Chinese; every Chinese character is one piece of its own. Otherwise whole phrases
such as a city with its neighbours become one piece and a name inside them cannot be copied.
"""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatglm.demo.conversation import SYSTEM_PROMPTS, chat, with_code, with_tools
from chatglm.demo.pools import english_name, english_word
from chatglm.demo.text import is_chinese
from chatglm.demo.wording import FOLDER

VOCAB_SIZE = 5111  # with the nine special tokens 5120, a multiple of 64
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
    return model.getvalue()


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


def _without_chinese(texts: list[str], seed: int) -> list[str]:
    rng = random.Random(seed)
    words = [f"{english_name('train', rng)} {english_word('train', rng)}" for _ in range(2000)]
    return [text for text in texts if not is_chinese(text)] + words


def _extra_characters() -> set[str]:
    printable = {chr(code) for code in range(33, 127)}
    written = {character for file in FOLDER.glob("*.txt") for character in file.read_text(encoding="utf-8")}
    return printable | set(PUNCTUATION) | {character for character in written if not character.isspace()}
