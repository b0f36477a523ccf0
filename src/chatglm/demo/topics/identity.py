"""Who the model is, who made it, what it can do and what it is not."""

import random

from chatglm.demo.text import Split, Turn, turn
from chatglm.demo.wording import read_intents

INTENTS = read_intents("identity")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One question about the model; who and what it is come more often than the rest."""
    pool = INTENTS if rng.random() < 0.65 else INTENTS[:6] + INTENTS[10:12]
    return [turn(rng.choice(pool), split, rng)]
