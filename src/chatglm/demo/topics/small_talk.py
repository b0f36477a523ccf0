"""Feelings, likes, jokes, poems and what the model cannot know: the weather, the time, the news."""

import random

from chatglm.demo.text import Split, Turn, turn
from chatglm.demo.wording import read_intents

INTENTS = read_intents("small_talk")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One piece of small talk."""
    return [turn(rng.choice(INTENTS), split, rng)]
