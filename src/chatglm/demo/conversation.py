"""Whole conversations: plain talk, talk with tools, talk with a code interpreter, each behind the product's prompt."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from chatglm.agent.prompts import system_message
from chatglm.agent.uploads import uploaded_text
from chatglm.chat.message import Message, Role
from chatglm.demo.text import Split, Turn, kept_question
from chatglm.demo.topics import FILLERS, TOPICS, code, tool_use

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
_SPREAD = (0, 0, 0, 0, 1, 1, 2, 3, 6)  # unrelated dialogues between turns that belong together
_LENGTHS = (1, 1, 1, 2, 2, 3, 4)  # dialogues in a conversation
_LONG_LENGTHS = (6, 40)  # without long ones the model loses its way after a dozen turns
_LONG_SHARE = 0.07
_ACTING_LENGTHS = (1, 1, 2, 2, 3, 4)  # turns of a conversation with tools or code
_FILLER_SHARE = 0.15  # of them plain talk
_KINDS = {"chat": 45, "tools": 33, "code": 22}  # shares of all conversations


@dataclass(frozen=True)
class Conversation:
    """What goes into the model: a system prompt of one's own (or none), what there is to act with, and the turns."""

    system: str | None
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    code: bool = False

    @property
    def kind(self) -> str:
        """What there is to act with: "chat", "tools" or "code"."""
        return "tools" if self.tools else "code" if self.code else "chat"

    def messages(self) -> list[Message]:
        """The chat messages as a session of the product renders them, ending with an assistant message."""
        return [message for message, _ in self.marked()]

    def marked(self) -> list[tuple[Message, bool]]:
        """The messages, each with whether it is to be learned where it is an assistant's."""
        system = system_message(self.system, self.tools, self.code)
        found = [] if system is None else [(system, True)]
        for turn in self.turns:
            found.append((question_of(turn), True))
            for step in turn.steps:
                found.append((Message(Role.ASSISTANT, step.text, step.name), step.learned))
                found.append((Message(Role.OBSERVATION, step.observation), True))
            found.append((Message(Role.ASSISTANT, turn.answer), True))
        return found


def question_of(turn: Turn) -> Message:
    """The user's message, with the lines that tell of uploaded files."""
    return Message(Role.USER, uploaded_text([(name, len(content)) for name, content in turn.files], turn.user))


def conversation(split: Split, rng: random.Random, progress: float = 1.0) -> Conversation:
    """A conversation of any kind at a point of training (0 = start, 1 = end)."""
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    if kind == "chat":
        return chat(split, rng, progress)
    return with_tools(split, rng) if kind == "tools" else with_code(split, rng)


def chat(split: Split, rng: random.Random, progress: float = 1.0) -> Conversation:
    """Plain talk."""
    names = _names(rng, progress)
    turns = [turn for name in names for turn in spread(dialogue(name, split, rng), rng)]
    return Conversation(_own_words(rng), tuple(turns))


def with_tools(split: Split, rng: random.Random) -> Conversation:
    """Talk with one to five tools at hand, now and then with code as well."""
    offer = tool_use.offer(split, rng)
    turns = _acting(lambda: tool_use.dialogue(offer, split, rng), rng, "tool_use")
    return Conversation(_own_words(rng), turns, tuple(offer.schemas), code=rng.random() < 0.1)


def with_code(split: Split, rng: random.Random) -> Conversation:
    """Talk with the code interpreter."""
    cells = code.Cells()
    return Conversation(None, _acting(lambda: code.dialogue(cells, split, rng), rng, "code"), code=True)


def _acting(make: Callable[[], list[Turn]], rng: random.Random, family: str) -> tuple[Turn, ...]:
    """Turns that act, with a little plain talk between them."""
    turns: list[Turn] = []
    for _ in range(rng.choice(_ACTING_LENGTHS)):
        filler = rng.random() < _FILLER_SHARE
        turns += _filler(turns, rng) if filler else [replace(turn, family=family) for turn in _fresh(make)]
    return tuple(turns)


def _filler(before: list[Turn], rng: random.Random) -> list[Turn]:
    """Plain talk that means the same whether there are tools or not; memory at most once, see `_names`."""
    told = any(turn.family in _MEMORY for turn in before)
    return dialogue(rng.choice([name for name in FILLERS if not (told and name in _MEMORY)]), "train", rng)


def dialogue(name: str, split: Split, rng: random.Random) -> list[Turn]:
    """A dialogue of one topic, every turn marked with the topic's name; never one of the kept plain questions."""
    return [replace(turn, family=name) for turn in _fresh(lambda: TOPICS[name].dialogue(split, rng))]


def _fresh(make: Callable[[], list[Turn]]) -> list[Turn]:
    while True:
        turns = make()
        if not any(kept_question(turn.user) for turn in turns):
            return turns


def spread(turns: list[Turn], rng: random.Random) -> list[Turn]:
    """Put unrelated turns between those that belong together, so that memory has to reach further than one turn."""
    result = turns[:1]
    for turn in turns[1:]:
        for _ in range(rng.choice(_SPREAD)):
            result += dialogue(_pick(rng, 1.0, exclude=_MEMORY), "train", rng)
        result.append(turn)
    return result


def stream(seed: int, split: Split = "train", progress: float = 1.0) -> Iterator[Conversation]:
    """Plain talk without end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield chat(split, rng, progress)


def _own_words(rng: random.Random) -> str | None:
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < _SYSTEM_SHARE else None


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
