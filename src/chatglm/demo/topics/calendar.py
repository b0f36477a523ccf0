"""Months, weekdays and seasons: what comes next, what came before, how many."""

import random

from chatglm.demo.text import Split, Turn, ask, turn
from chatglm.demo.wording import read_intents, read_sections

INTENTS = read_intents("calendar")
STEPS = read_sections("calendar_steps")
CYCLES_EN = tuple(line.split(", ") for line in STEPS["cycles en"])
CYCLES_ZH = tuple(line.split("、") for line in STEPS["cycles zh"])


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One step along a cycle, or one of the fixed questions."""
    if rng.random() < 0.4:
        return [turn(rng.choice(INTENTS), split, rng)]
    english, forward = rng.random() < 0.5, rng.random() < 0.6
    cycle = rng.choice(CYCLES_EN if english else CYCLES_ZH)
    index = rng.randrange(len(cycle))
    other = cycle[(index + (1 if forward else -1)) % len(cycle)]
    direction = "next" if forward else "before"
    if english:
        other = other[0].upper() + other[1:]
        asks = STEPS[f"{direction} en"]
        answer = "{other} comes after {item}." if forward else "{other} comes before {item}."
    else:
        asks = STEPS[f"{direction} zh"]
        answer = "{item}之后是{other}。" if forward else "{item}之前是{other}。"
    return [ask(asks, (answer,), split, rng, item=cycle[index], other=other)]
