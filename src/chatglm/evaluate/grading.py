"""Whether an answer is right: from what was extracted and the item to a score from 0 to 1."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chatglm.evaluate.calls import grade_calls
from chatglm.evaluate.item import Item
from chatglm.evaluate.math_answers import MathJudge
from chatglm.evaluate.metrics import LONG_METRICS
from chatglm.evaluate.programs import ProgramJudge


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score from 0 to 1, and in words why, where that is not plain to see."""

    score: float
    why: str = ""


class Grader:
    """Grades answers; what it needs for that - an interpreter, a helper for formulas - is started when first needed.

    `with Grader() as grader:` ends these.
    """

    def __init__(self) -> None:
        self._formulas, self._programs = MathJudge(), ProgramJudge()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self._formulas.close()
        self._programs.close()

    def prepare(self, metric: str) -> None:
        """Starts what a metric needs, so that what is missing is told before anything is asked.

        Raises:
            SandboxError: programs cannot be isolated here. MissingExtraError: a package is missing.
        """
        if metric == "tests":
            self._programs.start()
        elif metric == "formula":
            self._formulas.start()
        elif metric.endswith(", Chinese"):
            LONG_METRICS[metric]("一", "一", ())

    def grade(self, metric: str, answer: str | None, item: Item) -> Verdict:
        """The verdict on what was extracted; None is wrong."""
        if answer is None:
            return Verdict(0.0, "no answer was found")
        if metric == "tests":
            return Verdict(*self._programs.grade(answer, item))
        if metric == "calls":
            return Verdict(*grade_calls(answer, item))
        if metric == "formula":
            return Verdict(*self._formulas.grade(answer, item.gold))
        if metric in LONG_METRICS:
            score = max(LONG_METRICS[metric](answer, gold, item.extra.get("classes", ())) for gold in item.gold)
            return Verdict(float(score))
        return Verdict(float(any(SAME[metric](answer, gold) for gold in item.gold)))

    def grade_letter(self, letter: str | None, item: Item, together: bool) -> Verdict:
        """The verdict on a letter; of several right ones any counts, or all of them `together`."""
        if letter is None:
            return Verdict(0.0, "no letter was found")
        right = letter == "".join(sorted(item.gold)) if together else letter in item.gold
        return Verdict(float(right))


def same_number(answer: str, gold: str) -> bool:
    """Whether both are the same number, however they are written."""
    try:
        return abs(float(answer.replace(",", "")) - float(gold.replace(",", ""))) < 1e-6
    except ValueError:
        return False


def same_statement(answer: str, gold: str) -> bool:
    """Whether both say the same: options by their letter, brackets and words without regard to blanks and case."""
    option = re.match(r"\s*\(([A-Z])\)\s*$", gold)
    if option:
        said = re.match(r"[\s*]*[(\[]?([A-Z])(?:[)\].:,]|\s*$)", answer)
        return said is not None and said[1] == option[1]
    return _bare(answer) == _bare(gold)


def contains(answer: str, gold: str) -> bool:
    """Whether the right answer stands in what was written."""
    return gold.casefold() in answer.casefold()


SAME: Mapping[str, Callable[[str, str], bool]] = {
    "number": same_number, "statement": same_statement, "contains": contains,
}  # fmt: skip
METRICS: tuple[str, ...] = (*SAME, "letter", "letter set", "tests", "formula", "calls", *LONG_METRICS)


def _bare(text: str) -> str:
    words: Any = re.sub(r"[,;，；、]", " ", text).casefold().split()
    return "".join(words).strip(".。") if not re.search(r"\w", text) else " ".join(words).strip(".。\"'")
