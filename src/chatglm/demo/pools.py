"""Open pools of names and words, so that the model has to copy what it reads instead of recognising it.

One entry in ten of every pool (chosen by a checksum, so it is the same everywhere) is kept for the judge.
"""

import random
import zlib

from chatglm.demo.text import Split
from chatglm.demo.wording import read_sections

WORDING = read_sections("pools")
ENGLISH_NAMES = tuple(" ".join(WORDING["english names"]).split())
NICKNAMES = tuple(" ".join(WORDING["nicknames"]).split())
SURNAMES = tuple("".join(WORDING["surnames"]))
COMPOUND_SURNAMES = tuple(WORDING["compound surnames"][0].split())
GIVEN = tuple("".join(WORDING["given"]))  # characters of given names
COMMON = tuple("".join(WORDING["common"]))  # frequent characters of everyday Chinese
_ONSETS = tuple(WORDING["onsets"][0].split())
_NUCLEI = tuple(WORDING["nuclei"][0].split())
_CODAS = ("", "", "", "n", "r", "s", "l", "m", "t", "x", "nd", "rt")


def kept_for_judge(value: str) -> bool:
    """Whether a pool entry never appears in training."""
    return zlib.crc32(value.encode()) % 10 == 3


def _parted(values: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entries for training and those kept for the judge."""
    return (
        tuple(value for value in values if not kept_for_judge(value)),
        tuple(value for value in values if kept_for_judge(value)),
    )


CITIES_EN = _parted(tuple(WORDING["english cities"][0].split(", ")))
CITIES_ZH = _parted(tuple(" ".join(WORDING["chinese cities"]).split()))


def draw(split: Split, make: "Draw") -> str:
    """Draw until the entry lies on the wanted side of the held-out line."""
    while True:
        value = make()
        if kept_for_judge(value) == (split == "entity"):
            return value


class Draw:
    """A pool bound to a random source; calling it gives one entry."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def __call__(self) -> str:
        raise NotImplementedError


class EnglishName(Draw):
    """Half from the list, half made of syllables."""

    def __call__(self) -> str:
        if self.rng.random() < 0.5:
            return self.rng.choice(ENGLISH_NAMES)
        return made_up_word(self.rng).capitalize()


class ChineseName(Draw):
    """A nickname, a surname with one or two given characters, or a foreign name."""

    def __call__(self) -> str:
        roll = self.rng.random()
        if roll < 0.25:
            return self.rng.choice(NICKNAMES)
        if roll < 0.35:
            return self.rng.choice(ENGLISH_NAMES)
        if roll < 0.45:
            return self.rng.choice("小阿老大") + self.rng.choice(SURNAMES + GIVEN)
        surname = self.rng.choice(COMPOUND_SURNAMES if roll > 0.92 else SURNAMES)
        given = "".join(self.rng.choice(GIVEN) for _ in range(self.rng.choice((1, 2, 2))))
        return surname + (given[0] * 2 if roll > 0.97 or roll < 0.48 else given)  # 李娜娜: twice is hard to copy


class EnglishWord(Draw):
    """A word that no dictionary has."""

    def __call__(self) -> str:
        return made_up_word(self.rng)


class ChineseWord(Draw):
    """Two or three common characters side by side."""

    def __call__(self) -> str:
        return "".join(self.rng.choice(GIVEN + SURNAMES + COMMON) for _ in range(self.rng.choice((2, 2, 3, 4))))


def made_up_word(rng: random.Random) -> str:
    """Two or three random syllables in lower case."""
    pieces = []
    for _ in range(rng.choice((1, 2, 2, 2, 3))):
        pieces.append(rng.choice(_ONSETS) + rng.choice(_NUCLEI))
    return "".join(pieces) + rng.choice(_CODAS)


def english_name(split: Split, rng: random.Random) -> str:
    return draw(split, EnglishName(rng))


def chinese_name(split: Split, rng: random.Random) -> str:
    return draw(split, ChineseName(rng))


def english_word(split: Split, rng: random.Random) -> str:
    return draw(split, EnglishWord(rng))


def chinese_word(split: Split, rng: random.Random) -> str:
    return draw(split, ChineseWord(rng))


def number(split: Split, rng: random.Random, low: int, high: int) -> int:
    """A whole number; above 99 one in ten is kept for the judge, smaller ones are everybody's."""
    value = rng.randint(low, high)
    while value > 99 and kept_for_judge(str(value)) != (split == "entity"):
        value = rng.randint(max(low, 100), max(high, 999))
    return value


def english_city(split: Split, rng: random.Random) -> str:
    """Half a known city, half one that does not exist."""
    if rng.random() < 0.5:
        return rng.choice(CITIES_EN[split == "entity"])
    while kept_for_judge(made_up := made_up_word(rng).capitalize()) != (split == "entity"):
        pass
    return made_up


def chinese_city(split: Split, rng: random.Random) -> str:
    """Half a known city, half one that does not exist."""
    cities = CITIES_ZH[split == "entity"]
    return rng.choice(cities) if rng.random() < 0.5 else chinese_word(split, rng)
