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
    greetings,
    identity,
    memory,
    opposites,
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
        """The share at a point of training; a change is complete after two thirds of the run."""
        return self.first + (self.last - self.first) * min(progress * 1.5, 1.0)


TOPICS = {
    "greetings": Topic(greetings.dialogue, 8, 11),
    "identity": Topic(identity.dialogue, 9, 13),
    "small_talk": Topic(small_talk.dialogue, 9, 15),
    "capitals": Topic(capitals.dialogue, 6, 8, open=True),
    "opposites": Topic(opposites.dialogue, 6, 10, open=True),
    "translation": Topic(translation.dialogue, 8, 13, open=True),
    "calendar": Topic(calendar.dialogue, 3, 5),
    "things": Topic(things.dialogue, 7, 10),
    "arithmetic": Topic(arithmetic.dialogue, 6, 24, open=True),
    "memory": Topic(memory.dialogue, 16, 16, open=True),
    "two_facts": Topic(memory.two_facts, 2, 3, open=True),
    "copying": Topic(copying.dialogue, 30, 6, open=True),
    "unknown": Topic(unknown.dialogue, 9, 14, open=True),
}
