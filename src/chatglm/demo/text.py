"""Templates, writing habits and held-out phrasings: the small machinery that every topic shares.

A template is a sentence with choices in parentheses and named slots: `(what is|tell me) the capital of {place}(?|)`.
One phrasing in six of each intent never appears in training, so that the judge can ask something new.
"""

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "phrasing", "entity", "family"]
SPLITS: tuple[Split, ...] = ("train", "phrasing", "entity")

_CHOICE = re.compile(r"\(([^()]*)\)")
_HELD_OUT_EVERY = 6
_HELD_OUT_FIRST = 4
_CJK = re.compile(r"[\u4e00-\u9fff]")
_LETTER = re.compile("[A-Za-z]")
_SLOT = re.compile(r"\{\w+\}")
_OPENING_SHARE = 0.06
_CHINESE_OPENINGS = ("你好，", "你好！", "请问，", "请问", "那", "嗨，", "好的，", "对了，")
_ENGLISH_OPENINGS = ("Hi, ", "Hello, ", "Hello! ", "Hey, ", "So, ", "OK, ", "hi, ", "Please, ", "Well, ")
_FULL_TO_HALF = str.maketrans({"？": "?", "！": "!", "，": ",", "。": "."})


@dataclass(frozen=True)
class Step:
    """Something the model does before it answers, and what comes back of it.

    Attributes:
        name: the tool that is called, or `interpreter` for code.
        text: the call or the code as it is written, fences and all.
        observation: the result as the product words it.
        arguments: of a call.
        learned: False for a mistake that is there only to be put right by what follows.
    """

    name: str
    text: str
    observation: str
    arguments: Mapping[str, Any] | None = None
    learned: bool = True


@dataclass(frozen=True)
class Turn:
    """One question, what is done about it, and the answer to learn.

    Attributes:
        accepted: every answer that the judge takes as right.
        family: the topic.
        values: what the answer must tell of the results.
        drawn: entries of open pools and large numbers in it, of which some are kept for the judge.
        files: names and contents uploaded with the question.
    """

    user: str
    answer: str
    accepted: tuple[str, ...]
    family: str = ""
    steps: tuple[Step, ...] = ()
    values: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()

    def __post_init__(self) -> None:
        if self.answer not in self.accepted:
            raise ValueError(f"answer {self.answer!r} is not among the accepted ones {self.accepted!r}")


@dataclass(frozen=True)
class Intent:
    """Several ways to say one thing, and one or more answers to it."""

    asks: tuple[str, ...]
    answers: tuple[str, ...]


def held_out(index: int) -> bool:
    """Whether the phrasing at this place of an intent's list is kept out of training."""
    return index % _HELD_OUT_EVERY == _HELD_OUT_FIRST


def phrasings(asks: Sequence[str], split: Split) -> list[str]:
    """The phrasings that a split may use; an intent with too few has none held out and uses all."""
    if len(asks) <= _HELD_OUT_FIRST:
        return list(asks)
    return [ask for index, ask in enumerate(asks) if held_out(index) == (split == "phrasing")]


@cache
def _plain_questions() -> frozenset[str]:
    file = Path(__file__).parent / "kept_questions.txt"
    return frozenset(file.read_text(encoding="utf-8").split())


def question_digest(text: str) -> str:
    """What a question is recognised by, however it is typed: 12 hexadecimal digits."""
    letters = "".join(letter for letter in text.casefold() if letter.isalnum())
    return hashlib.sha256(letters.encode()).hexdigest()[:12]


def kept_question(text: str) -> bool:
    """Whether this is one of the plain questions that training must never show."""
    return question_digest(text) in _plain_questions()


def expand(template: str, rng: random.Random) -> str:
    """Choose one branch of every `(a|b|c)`, innermost first."""
    while True:
        chosen = _CHOICE.sub(lambda found: rng.choice(found.group(1).split("|")), template)
        if chosen == template:
            return chosen
        template = chosen


def fill(template: str, slots: Mapping[str, object]) -> str:
    """Put values in the `{slots}`; a slot without a value is a KeyError."""
    return template.format_map(dict(slots))


def is_chinese(text: str) -> bool:
    """Whether the text holds a Chinese character."""
    return _CJK.search(text) is not None


def habits(template: str, rng: random.Random) -> str:
    """Write a template as different people type: without punctuation, in lower case, with half-width signs."""
    chinese = is_chinese(template)
    typed = _chinese_habits(template, rng) if chinese else _english_habits(template, rng)
    if rng.random() < _OPENING_SHARE and (chinese or _LETTER.search(_SLOT.sub("", template))):
        typed = rng.choice(_CHINESE_OPENINGS) + typed if chinese else rng.choice(_ENGLISH_OPENINGS) + _uncapital(typed)
    return typed or template  # "..." without its punctuation would be nothing


def _chinese_habits(text: str, rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.30:
        return text.rstrip("？！。")
    if roll < 0.38:
        return text.translate(_FULL_TO_HALF)
    return text


def _english_habits(text: str, rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.25:
        return lower_outside_slots(text).rstrip("?!.").rstrip()
    if roll < 0.40:
        return lower_outside_slots(text)
    if roll < 0.55:
        return text.rstrip("?!.").rstrip()
    return text


def _uncapital(text: str) -> str:
    """Lower-case the first letter, unless it is the word I."""
    return text if re.match(r"I\b", text) else text[0].lower() + text[1:]


def lower_outside_slots(text: str) -> str:
    """Lower-case everything but the names of slots."""
    return re.sub(r"(\{\w+\})|[^{]+", lambda found: found.group(1) or found.group().lower(), text)


def say(asks: Sequence[str], split: Split, rng: random.Random, **slots: object) -> str:
    """One question: a phrasing of the split, its choices made, typed with some habit, its slots filled."""
    return fill(habits(expand(rng.choice(phrasings(asks, split)), rng), rng), slots)


def reply(question: str, answers: Sequence[str], rng: random.Random, **slots: object) -> Turn:
    """A turn whose answer is one of the templates; all of them are accepted."""
    accepted = tuple(fill(answer, slots) for answer in answers)
    return Turn(question, rng.choice(accepted), accepted)


def ask(asks: Sequence[str], answers: Sequence[str], split: Split, rng: random.Random, **slots: object) -> Turn:
    """A turn: a question and its answer, with the same values in the slots of both."""
    return reply(say(asks, split, rng, **slots), answers, rng, **slots)


def turn(intent: Intent, split: Split, rng: random.Random) -> Turn:
    """A turn of an intent."""
    return ask(intent.asks, intent.answers, split, rng)
