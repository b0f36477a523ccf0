"""What cannot be known without a net, a clock or tools: the weather, the time, the news."""

import random

from chatglm.demo.text import Split, Turn, turn
from chatglm.demo.wording import read_intents

INTENTS = read_intents("offline")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One intent."""
    return [turn(rng.choice(INTENTS), split, rng)]
