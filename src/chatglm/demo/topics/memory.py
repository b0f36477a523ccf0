"""Remembering what the user told: name, city, pet, favourite colour, age; and admitting that nothing was told."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from chatglm.demo.pools import chinese_name, chinese_word, english_name, english_word
from chatglm.demo.text import Split, Turn, ask, is_chinese
from chatglm.demo.wording import read_sections

WORDING = read_sections("memory")

Pool = Callable[[Split, random.Random], str]


@dataclass(frozen=True)
class Fact:
    """Something a user tells, and how it is asked back."""

    tells: tuple[str, ...]
    heard: str
    asks: tuple[str, ...]
    recalled: str
    unknown: str
    pool: Pool


def _from(english: bool, *values: str) -> Pool:
    """Half from a list, half a word that does not exist, so that it must be copied."""
    made_up = english_word if english else chinese_word

    def pool(split: Split, rng: random.Random) -> str:
        return rng.choice(values) if split != "entity" and rng.random() < 0.5 else made_up(split, rng)

    return pool


def _age(split: Split, rng: random.Random) -> str:
    return str(rng.randint(3, 99))


_CITIES_EN = WORDING["cities en"][0].split()
_COLORS_EN = WORDING["colors en"][0].split()
_CITIES_ZH = WORDING["cities zh"][0].split()
_COLORS_ZH = WORDING["colors zh"][0].split()


def _fact(name: str, pool: Pool) -> Fact:
    """The wording of one kind of fact out of its five sections."""
    tells, heard, asks, recalled, unknown = (
        WORDING[f"{name} {part}"] for part in ("tells", "heard", "asks", "recalled", "unknown")
    )
    return Fact(tells, heard[0], asks, recalled[0], unknown[0], pool)


NAME_EN = _fact("name en", english_name)
NAME_ZH = _fact("name zh", chinese_name)
FACTS_EN = (
    _fact("home en", _from(True, *_CITIES_EN)),
    _fact("color en", _from(True, *_COLORS_EN)),
    _fact("pet en", english_name),
    _fact("age en", _age),
    _fact("food en", _from(True, *WORDING["foods en"][0].split(", "))),
    _fact("job en", _from(True, *WORDING["jobs en"][0].split(", "))),
    _fact("hobby en", _from(True, *WORDING["hobbies en"][0].split(", "))),
    _fact("friend en", english_name),
)
FACTS_ZH = (
    _fact("home zh", _from(False, *_CITIES_ZH)),
    _fact("color zh", _from(False, *_COLORS_ZH)),
    _fact("pet zh", chinese_name),
    _fact("age zh", _age),
    _fact("food zh", _from(False, *WORDING["foods zh"][0].split())),
    _fact("job zh", _from(False, *WORDING["jobs zh"][0].split())),
    _fact("hobby zh", _from(False, *WORDING["hobbies zh"][0].split())),
    _fact("friend zh", chinese_name),
)


def choose(rng: random.Random) -> Fact:
    """A kind of fact; the name is by far the most frequent."""
    if rng.random() < 0.6:
        return NAME_EN if rng.random() < 0.5 else NAME_ZH
    return rng.choice(FACTS_EN + FACTS_ZH)


def tell(fact: Fact, value: str, split: Split, rng: random.Random) -> Turn:
    """The user says it."""
    return ask(fact.tells, (fact.heard,), split, rng, value=value)


def recall(fact: Fact, value: str, split: Split, rng: random.Random) -> Turn:
    """The user asks for it."""
    return ask(fact.asks, (fact.recalled,), split, rng, value=value)


def told_and_asked(fact: Fact, value: str, split: Split, rng: random.Random) -> Turn:
    """Said and asked for in one message."""
    told, asked = tell(fact, value, split, rng).user, recall(fact, value, split, rng)
    told = told.rstrip(".!。！ ")
    text = f"{told}。{asked.user}" if is_chinese(told) else f"{told}. {asked.user[:1].upper()}{asked.user[1:]}"
    return replace(asked, user=text)


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """Told and asked back; or told twice, and the last one counts; or asked without having been told."""
    fact = choose(rng)
    if split == "train" and rng.random() < 0.15:
        return [ask(fact.asks, (fact.unknown,), split, rng)]
    value = fact.pool(split, rng)
    if rng.random() < 0.25:
        return [told_and_asked(fact, value, split, rng)]
    turns = [tell(fact, value, split, rng)]
    if rng.random() < 0.12:
        value = fact.pool(split, rng)
        turns.append(tell(fact, value, split, rng))
    return [*turns, recall(fact, value, split, rng)]


def two_facts(split: Split, rng: random.Random) -> list[Turn]:
    """Two different things told before either is asked, both in one language."""
    facts = rng.sample((NAME_EN, *FACTS_EN), 2) if rng.random() < 0.5 else rng.sample((NAME_ZH, *FACTS_ZH), 2)
    told = [(fact, fact.pool(split, rng)) for fact in facts]
    asked = told if rng.random() < 0.5 else told[::-1]
    return [tell(*one, split, rng) for one in told] + [recall(*one, split, rng) for one in asked]
