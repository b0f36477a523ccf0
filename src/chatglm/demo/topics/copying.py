"""Say what I say: the drill that teaches copying, and a small skill of its own."""

import random

from chatglm.demo.pools import chinese_name, chinese_word, english_name, english_word
from chatglm.demo.text import Split, Turn, ask
from chatglm.demo.topics.translation import WORDS
from chatglm.demo.wording import read_sections

WORDING = read_sections("copying")


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """A few random words, names or digits to give back unchanged."""
    english = rng.random() < 0.5
    text = (english_text if english else chinese_text)(split, rng)
    return [ask(WORDING["ask en" if english else "ask zh"], ("{text}",), split, rng, text=text)]


def english_text(split: Split, rng: random.Random) -> str:
    """One to five words that nobody has seen together, some of them known ones, or a number."""
    makers = (english_name, english_word, english_word, _known_english, _known_english, _number)
    return " ".join(rng.choice(makers)(split, rng) for _ in range(rng.choice((1, 1, 2, 3, 3, 4, 5))))


def chinese_text(split: Split, rng: random.Random) -> str:
    """One to three words of random characters, a name, or a number."""
    makers = (chinese_name, chinese_word, chinese_word, chinese_word, _known_chinese, _number)
    return "".join(rng.choice(makers)(split, rng) for _ in range(rng.choice((1, 1, 2, 3))))


def _known_english(split: Split, rng: random.Random) -> str:
    return rng.choice(WORDS)[0]


def _known_chinese(split: Split, rng: random.Random) -> str:
    return rng.choice(WORDS)[1]


def _number(split: Split, rng: random.Random) -> str:
    return str(rng.randint(0, 10 ** rng.randint(1, 8)))
