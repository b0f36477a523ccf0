"""How people say they feel, put together of who, when, how much and what; every feeling has its own kind of answer."""

import random

from chatglm.demo.text import Split, Turn, ask
from chatglm.demo.wording import read_sections, rows

WORDING = read_sections("feelings")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """A feeling, or something that brings one about."""
    kind = rng.choice(rows(WORDING["kinds"]))[0]
    language = rng.choice(("en", "zh"))
    answers = WORDING[f"{kind} answer {language}"]
    if rng.random() < 0.4:
        return [ask(WORDING[f"{kind} events {language}"], answers, split, rng)]
    feeling = rng.choice(WORDING[f"{kind} {language}"])
    return [ask(WORDING[f"say {language}"], answers, split, rng, feeling=feeling)]
