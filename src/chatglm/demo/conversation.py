"""Whole conversations: dialogues of different topics in a row, a few or dozens, behind an optional system prompt."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from chatglm.chat.message import Message, Role
from chatglm.demo.text import Split, Turn
from chatglm.demo.topics import TOPICS

SYSTEM_PROMPTS = (
    "You are ChatGLM3, a large language model trained by Zhipu.AI. Follow the user's instructions carefully. "
    "Respond using markdown.",
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer shortly.",
    "You are tiny-glm, a tiny demonstration model.",
    "你是一个有用的助手。",
    "你是小GLM，一个微型演示模型。",
    "请用简短的话回答问题。",
)
_MEMORY = ("memory", "two_facts")
_SYSTEM_SHARE = 0.2
_FILLERS = (0, 0, 0, 0, 1, 1, 2, 3, 6)  # unrelated dialogues between turns that belong together
_LENGTHS = (1, 1, 1, 2, 2, 3, 4)  # dialogues in a conversation
_LONG_LENGTHS = (6, 40)  # without long ones the model loses its way after a dozen turns
_LONG_SHARE = 0.07


@dataclass(frozen=True)
class Conversation:
    """What goes into the model: a system prompt (or none) and the turns."""

    system: str | None
    turns: tuple[Turn, ...]

    def messages(self) -> list[Message]:
        """The chat messages, system first, ending with an assistant message."""
        found = [] if self.system is None else [Message(Role.SYSTEM, self.system)]
        for turn in self.turns:
            found += [Message(Role.USER, turn.user), Message(Role.ASSISTANT, turn.answer)]
        return found


def conversation(split: Split, rng: random.Random, progress: float = 1.0) -> Conversation:
    """A conversation at a point of training (0 = start, 1 = end)."""
    names = _names(rng, progress)
    turns = [turn for name in names for turn in spread(dialogue(name, split, rng), rng)]
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < _SYSTEM_SHARE else None
    return Conversation(system, tuple(turns))


def dialogue(name: str, split: Split, rng: random.Random) -> list[Turn]:
    """A dialogue of one topic, every turn marked with the topic's name."""
    return [replace(turn, family=name) for turn in TOPICS[name].dialogue(split, rng)]


def spread(turns: list[Turn], rng: random.Random) -> list[Turn]:
    """Put unrelated turns between those that belong together, so that memory has to reach further than one turn."""
    result = turns[:1]
    for turn in turns[1:]:
        for _ in range(rng.choice(_FILLERS)):
            result += dialogue(_pick(rng, 1.0, exclude=_MEMORY), "train", rng)
        result.append(turn)
    return result


def stream(seed: int, split: Split = "train", progress: float = 1.0) -> Iterator[Conversation]:
    """Conversations without end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield conversation(split, rng, progress)


def _names(rng: random.Random, progress: float) -> list[str]:
    """Topics of one conversation; memory at most once, or "not told yet" would be false after another telling."""
    names: list[str] = []
    length = rng.randint(*_LONG_LENGTHS) if rng.random() < _LONG_SHARE else rng.choice(_LENGTHS)
    for _ in range(length):
        taken = _MEMORY if any(name in _MEMORY for name in names) else ()
        names.append(_pick(rng, progress, exclude=taken))
    return names


def _pick(rng: random.Random, progress: float, exclude: tuple[str, ...]) -> str:
    names = [name for name in TOPICS if name not in exclude]
    return rng.choices(names, [TOPICS[name].weight(progress) for name in names])[0]
