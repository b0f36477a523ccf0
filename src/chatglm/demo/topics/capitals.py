"""Capitals of countries, in both languages and both directions; a made-up country gets an honest answer."""

import random

from chatglm.demo.pools import chinese_word, english_word
from chatglm.demo.text import Split, Turn, ask
from chatglm.demo.topics.unknown import NO_EN, NO_ZH
from chatglm.demo.wording import read_sections, rows

WORDING = read_sections("capitals")
CAPITALS = rows(WORDING["table"])


ANSWER_EN = "The capital of {place} is {city}."
ANSWER_ZH = "{place}的首都是{city}。"


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One question about a capital; on the entity split always about a country that does not exist."""
    english = rng.random() < 0.5
    language = "en" if english else "zh"
    if split == "entity" or rng.random() < 0.15:
        place = english_word(split, rng).capitalize() if english else chinese_word(split, rng)
        return [ask(WORDING[f"ask {language}"], (NO_EN if english else NO_ZH,), split, rng, place=place)]
    country, city, land, town = rng.choice(CAPITALS)
    asks = WORDING[f"{'back' if rng.random() < 0.2 else 'ask'} {language}"]
    slots = {"place": country, "city": city} if english else {"place": land, "city": town}
    return [ask(asks, (ANSWER_EN if english else ANSWER_ZH,), split, rng, **slots)]
