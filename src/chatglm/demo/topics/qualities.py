"""Yes or no: whether a thing has a quality. A table says what each is, and what it is not."""

import random

from chatglm.demo.text import Split, Turn, ask
from chatglm.demo.wording import read_sections, rows

WORDING = read_sections("qualities")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One question; half of them have the answer no."""
    thing_en, right_en, wrong_en, thing_zh, right_zh, wrong_zh = rng.choice(rows(WORDING["table"]))
    yes = rng.random() < 0.5
    if rng.random() < 0.5:
        slots = {"thing": thing_en, "right": right_en, "asked": right_en if yes else wrong_en}
        slots["are"] = "are" if thing_en in WORDING["many"] else "is"
        slots["Are"], slots["Thing"] = slots["are"].capitalize(), thing_en[0].upper() + thing_en[1:]
        language = "en"
    else:
        slots = {"thing": thing_zh, "right": right_zh, "asked": right_zh if yes else wrong_zh}
        language = "zh"
    answers = WORDING[f"{'yes' if yes else 'no'} {language}"]
    return [ask(WORDING[f"ask {language}"], answers, split, rng, **slots)]
