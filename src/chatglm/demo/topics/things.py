"""Colours of things, sounds and legs of animals, and a list of single facts."""

import random

from chatglm.demo.text import Split, Turn, ask, turn
from chatglm.demo.wording import read_intents, read_sections, rows

WORDING = read_sections("things_tables")
TABLES = ("colors", "sounds", "legs")  # rows: English thing, English value, Chinese thing, Chinese value
FACTS = read_intents("things")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One fact: half from the tables, half from the list."""
    if rng.random() < 0.5:
        return [turn(rng.choice(FACTS), split, rng)]
    table = rng.choice(TABLES)
    thing_en, value_en, thing_zh, value_zh = rng.choice(rows(WORDING[table]))
    if rng.random() < 0.5:
        language = "en"
        slots = {"thing": thing_en, "Thing": thing_en[0].upper() + thing_en[1:], "value": value_en}
    else:
        language = "zh"
        slots = {"thing": thing_zh, "value": value_zh}
    asks, answers = WORDING[f"{table} ask {language}"], WORDING[f"{table} answer {language}"]
    return [ask(asks, answers, split, rng, **slots)]
