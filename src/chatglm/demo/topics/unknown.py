"""Questions beyond a tiny model, and the honest answer to them.

The questions are deliberately many and close in form to those that have an answer, so that the model learns to tell
them apart rather than to answer everything.
"""

import random

from chatglm.demo.pools import chinese_name, chinese_word, english_name, english_word
from chatglm.demo.text import Split, Turn, ask
from chatglm.demo.wording import read_sections

NO_ZH = "对不起，这个我不知道，我只是一个微型演示模型。"
NO_EN = "Sorry, I do not know that. I am only a tiny demonstration model."
CANNOT_ZH = "对不起，这个我做不到，我只是一个微型演示模型。"
CANNOT_EN = "Sorry, I cannot do that. I am only a tiny demonstration model."
HEARD_ZH = "真有意思，不过我太小了，不太懂这些。"
HEARD_EN = "How interesting! I am too tiny to know much about it, though."
REFUSALS = (NO_ZH, NO_EN, CANNOT_ZH, CANNOT_EN, HEARD_ZH, HEARD_EN)
ANSWERS_ZH = {"ask": NO_ZH, "do": CANNOT_ZH, "tell": HEARD_ZH}
ANSWERS_EN = {"ask": NO_EN, "do": CANNOT_EN, "tell": HEARD_EN}

WORDING = read_sections("unknown")


def knowledge(split: Split, rng: random.Random) -> list[Turn]:
    """A question about a field of knowledge, which neither tools nor code would answer."""
    language = rng.choice(("en", "zh"))
    asks = tuple(one for one in WORDING[f"ask {language}"] if "{topic}" in one)
    topic, other = rng.sample(WORDING[f"topics {language}"], 2)
    return [ask(asks, (NO_EN if language == "en" else NO_ZH,), split, rng, topic=topic, other=other)]


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One thing beyond the model: a question, a task, or a remark."""
    english = rng.random() < 0.5
    kind = rng.choices(("ask", "do", "tell"), (60, 22, 18))[0]
    language = "en" if english else "zh"
    if english:
        answer = ANSWERS_EN[kind]
        name, word = f"{english_name(split, rng)} {english_name(split, rng)}", english_word(split, rng)
    else:
        answer = ANSWERS_ZH[kind]
        name, word = chinese_name(split, rng), chinese_word(split, rng)
    topic, other = rng.sample(WORDING[f"topics {language}"], 2)
    asks = WORDING[f"{kind} {language}"]
    year = rng.randint(1500, 2099)
    place = rng.choice(WORDING[f"places {language}"])
    return [ask(asks, (answer,), split, rng, topic=topic, other=other, place=place, name=name, word=word, year=year)]
