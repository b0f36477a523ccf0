"""One question of a task, whatever file it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Item:
    """A question and what is known about its answer.

    Args:
        id: names it in files and reports; the same for the same file.
        subject: the part of the task it belongs to.
        question: its text.
        gold: the answers that are right, letters where there are choices. Empty: the label is withheld.
        choices: what there is to choose from.
        passage: text the question is about.
        tests: statements that a program must survive.
        setup: statements to run behind the program and before them.
        worked: a worked solution, for items that serve as examples, and for checking the grader.
        extra: what only one task has.
    """

    id: str
    subject: str
    question: str
    gold: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    passage: str = ""
    tests: tuple[str, ...] = ()
    setup: str = ""
    worked: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the choices."""
        return tuple(LETTERS[: len(self.choices)])
