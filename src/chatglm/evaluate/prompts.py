"""From an item and a protocol to the text a model is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatglm.errors import ConfigError
from chatglm.evaluate.data import Data
from chatglm.evaluate.item import Item
from chatglm.evaluate.task import Protocol, Task, fill


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked about one item.

    Args:
        protocol: as it holds for this item.
        shared: the text that stands before many items: header and examples.
        text: the whole.
    """

    item: Item
    protocol: Protocol
    shared: str
    text: str

    def second(self, written: str) -> str:
        """The text of the second pass, behind what was written in the first."""
        return fill(self.protocol.second, values(self.item, {}) | {"written": written})


class Prompter:
    """Makes the prompts of one task by one protocol.

    Raises:
        ConfigError: there are not as many examples as the protocol wants.
    """

    def __init__(self, task: Task, protocol: Protocol, data: Data) -> None:
        self.task, self.protocol, self.data = task, protocol, data
        self._of_subject: dict[tuple[str, bool], tuple[Protocol, str]] = {}

    def prompt(self, item: Item) -> Prompt:
        """The prompt of an item."""
        key = (item.subject, bool(item.choices))
        if key not in self._of_subject:
            self._of_subject[key] = self._prepare(item)
        protocol, shared = self._of_subject[key]
        return Prompt(item, protocol, shared, shared + fill(protocol.template, values(item, self.data.names)))

    def _prepare(self, item: Item) -> tuple[Protocol, str]:
        """The protocol of a subject, and what stands before its questions."""
        protocol = self.protocol
        if protocol.without_choices is not None and not item.choices:
            protocol = protocol.without_choices
        if self.task.adjust is not None:
            protocol = self.task.adjust(protocol, item.subject, self.data.facts)
        names = values(item, self.data.names)
        shared = fill(protocol.header, {"subject": names["subject"]}) if protocol.header else ""
        if shared and protocol.shots == 0 and not shared.endswith("\n"):
            shared += protocol.between
        for shot in self._shots(item, protocol.shots):
            text = values(shot, self.data.names)
            shared += fill(protocol.template, text) + fill(protocol.answer, text) + protocol.between
        return protocol, shared

    def _shots(self, item: Item, count: int) -> Sequence[Item]:
        if not count:
            return ()
        known = self.data.shots.get(item.subject) or self.data.shots.get("train") or []
        known = known or (next(iter(self.data.shots.values())) if len(self.data.shots) == 1 else [])
        if len(known) < count:
            raise ConfigError(
                f"{count} examples are wanted for {self.task.title}, {item.subject}, and there are {len(known)}; put "
                f"{' or '.join(self.task.shot_files)} into the folder of its data, or give --shots {len(known)}"
            )
        return known[:count]


def values(item: Item, names: Mapping[str, str]) -> dict[str, str]:
    """What the places of a template are filled with."""
    letters = item.letters
    letter = item.gold[0] if item.gold else ""
    return {
        "question": item.question.strip() if item.choices else item.question,
        "choices": "\n".join(f"{name}. {text}" for name, text in zip(letters, item.choices, strict=True)),
        "options": " ".join(f"({name}){text}" for name, text in zip(letters, item.choices, strict=True)),
        "passage": item.passage,
        "subject": names.get(item.subject, item.subject.replace("_", " ")),
        "tests": "\n".join(item.tests),
        "first": letters[0] if letters else "",
        "last": letters[-1] if letters else "",
        "letter": letter,
        "gold": ", ".join(item.gold),
        "worked": item.worked,
    }
