"""Tools that exist nowhere, made of random words: whoever is to call them has to read their schemas."""

import random

from chatglm.demo.families import Family, Parameter
from chatglm.demo.pools import english_word
from chatglm.demo.text import fill
from chatglm.demo.wording import read_sections, rows

WORDING = read_sections("invented")
_VERBS = rows(WORDING["verbs"])  # of names and requests: English name, English request, Chinese request
_NOUNS = rows(WORDING["nouns"])  # things that may be asked about: name, English, Chinese, kind of their value


def invent(rng: random.Random) -> Family:
    """A family with one or two parameters and one or two results, its words put together at random."""
    verb, ask_en, ask_zh = rng.choice(_VERBS)
    inputs = rng.sample(_NOUNS, rng.choice((1, 1, 2)))
    outputs = rng.sample([noun for noun in _NOUNS if noun not in inputs], rng.choice((1, 1, 2)))
    thing = english_word("train", rng)
    named = rng.choice((f"{verb}_{thing}", f"{thing}_{verb}", f"{verb}_{outputs[0][0]}", f"{thing}_{outputs[0][0]}"))
    family = Family(f"invented {named}", (named,))
    family.inputs = [Parameter((noun[0],), noun[3], (f"the {noun[1]}", noun[2])) for noun in inputs]
    family.outputs = [Parameter((noun[0],), noun[3], (noun[1], noun[2])) for noun in outputs]
    words = {
        "thing": thing,
        "wanted_en": " and the ".join(noun[1] for noun in outputs),
        "wanted_zh": "和".join(noun[2] for noun in outputs),
        "given_en": " and ".join(f"the {noun[1]} {{{noun[0]}}}" for noun in inputs),
        "given_zh": "、".join(f"{noun[2]}{{{noun[0]}}}" for noun in inputs),
        "verb_en": ask_en,
        "verb_zh": ask_zh,
    }
    family.about = [(fill(line_en, words), fill(line_zh, words)) for line_en, line_zh in _pairs("about")]
    for language in ("en", "zh"):
        family.asks[language] = [fill(line, words) for line in WORDING[f"ask {language}"]]
    told_en = " and ".join(f"the {noun[1]} is {{{noun[0]}}}" for noun in outputs)
    told_zh = "，".join(f"{noun[2]}是{{{noun[0]}}}" for noun in outputs)
    family.done = {"en": [told_en[0].upper() + told_en[1:] + "."], "zh": [told_zh + "。"]}
    return family


def _pairs(section: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in rows(WORDING[section])]
