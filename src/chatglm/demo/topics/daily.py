"""Everyday talk: advice, plans, meals, health, hobbies, holidays, school and work."""

import random

from chatglm.demo.text import Split, Turn, turn
from chatglm.demo.wording import read_intents

INTENTS = read_intents("daily")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One intent."""
    return [turn(rng.choice(INTENTS), split, rng)]
