"""Simple opposites in both languages."""

import random

from chatglm.demo.pools import chinese_word, english_word
from chatglm.demo.text import Split, Turn, ask
from chatglm.demo.topics.unknown import NO_EN, NO_ZH
from chatglm.demo.wording import read_sections, rows

WORDING = read_sections("opposites")
ENGLISH = rows(WORDING["table en"])
CHINESE = rows(WORDING["table zh"])
ANSWER_EN = "The opposite of {word} is {other}."
ANSWER_ZH = "“{word}”的反义词是“{other}”。"


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One opposite; on the entity split always a word that has none here."""
    english = rng.random() < 0.5
    asks, table = (WORDING["ask en"], ENGLISH) if english else (WORDING["ask zh"], CHINESE)
    if split == "entity" or rng.random() < 0.1:
        word = (english_word if english else chinese_word)(split, rng)
        return [ask(asks, (NO_EN if english else NO_ZH,), split, rng, word=word)]
    pair = rng.choice(table)
    word, other = pair if rng.random() < 0.6 else _backwards(pair, table)
    return [ask(asks, (ANSWER_EN if english else ANSWER_ZH,), split, rng, word=word, other=other)]


def _backwards(pair: tuple[str, ...], table: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Ask the pair from its other end, unless that word has another answer already (short: long or tall)."""
    firsts = [first for first, _ in table]
    seconds = [second for _, second in table]
    unique = pair[1] not in firsts and seconds.count(pair[1]) == 1
    return (pair[1], pair[0]) if unique else pair
