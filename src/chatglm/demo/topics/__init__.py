"""What the tiny model talks about: one file for each family, each with a `dialogue(split, rng)` that gives whole turns.

To teach it something new, add a file here and a line to `TOPICS`; nothing else has to change.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from chatglm.demo.text import Split, Turn
from chatglm.demo.topics import (
    arithmetic,
    calendar,
    capitals,
    copying,
    daily,
    feelings,
    greetings,
    identity,
    memory,
    offline,
    opposites,
    qualities,
    small_talk,
    things,
    translation,
    unknown,
)


@dataclass(frozen=True)
class Topic:
    """A family of dialogues: its share of all dialogues at the start and at the end of training."""

    dialogue: Callable[[Split, random.Random], list[Turn]]
    first: float
    last: float
    open: bool = False  # whether it has entities that can be kept from training

    def weight(self, progress: float) -> float:
        """The share at a point of training, 0 to 1."""
        return self.first + (self.last - self.first) * progress


TOPICS = {
    "greetings": Topic(greetings.dialogue, 6, 7),
    "identity": Topic(identity.dialogue, 8, 9),
    "small_talk": Topic(small_talk.dialogue, 10, 12),
    "daily": Topic(daily.dialogue, 20, 34),
    "feelings": Topic(feelings.dialogue, 7, 10),
    "offline": Topic(offline.dialogue, 3, 4),
    "capitals": Topic(capitals.dialogue, 6, 8, open=True),
    "opposites": Topic(opposites.dialogue, 6, 9, open=True),
    "translation": Topic(translation.dialogue, 8, 13, open=True),
    "calendar": Topic(calendar.dialogue, 3, 5),
    "things": Topic(things.dialogue, 7, 10),
    "qualities": Topic(qualities.dialogue, 5, 8),
    "arithmetic": Topic(arithmetic.dialogue, 8, 22, open=True),
    "memory": Topic(memory.dialogue, 16, 16, open=True),
    "two_facts": Topic(memory.two_facts, 2, 4, open=True),
    "copying": Topic(copying.dialogue, 40, 8, open=True),
    "unknown": Topic(unknown.dialogue, 10, 16, open=True),
    "knowledge": Topic(unknown.knowledge, 2, 3),
}
# What means the same whether there are tools or not.
FILLERS = (
    "greetings", "identity", "small_talk", "daily", "feelings", "memory", "copying", "things", "opposites", "qualities",
    "capitals", "calendar", "knowledge", "knowledge",
)  # fmt: skip
