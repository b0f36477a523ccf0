"""Common words between Chinese and English, both ways."""

import random

from chatglm.demo.pools import chinese_word, english_word
from chatglm.demo.text import Split, Turn, ask
from chatglm.demo.topics.unknown import NO_EN, NO_ZH
from chatglm.demo.wording import read_sections, rows

WORDING = read_sections("translation")
WORDS = rows(WORDING["table"])


# question templates, answer, refusal, whether the word asked about is English
KINDS = (
    (WORDING["zh to en"], "“{zh}”的英文是 {en}。", NO_ZH, False),
    (WORDING["en to zh"], "{en} 的中文是“{zh}”。", NO_ZH, True),
    (WORDING["en asks zh"], "{en} in Chinese is {zh}.", NO_EN, True),
    (WORDING["en asks en"], "{zh} in English is {en}.", NO_EN, False),
)


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One word to translate; on the entity split always a word that does not exist."""
    asks, answer, refusal, about_english = rng.choice(KINDS)
    if split == "entity" or rng.random() < 0.12:
        word = english_word(split, rng) if about_english else chinese_word(split, rng)
        return [ask(asks, (refusal,), split, rng, en=word, zh=word)]
    english, chinese = rng.choice(WORDS)
    return [ask(asks, (answer,), split, rng, en=english, zh=chinese)]
