"""Hello, goodbye, thanks, sorry, good morning: what nearly every conversation starts and ends with."""

import random

from chatglm.demo.text import Split, Turn, turn
from chatglm.demo.wording import read_intents

INTENTS = read_intents("greetings")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One greeting; plain hellos, goodbyes and thanks come more often than the rest."""
    pool = INTENTS if rng.random() < 0.6 else INTENTS[:2] + INTENTS[10:14]
    return [turn(rng.choice(pool), split, rng)]
