"""What a task is: where its questions come from, and the protocols by which it is put to a model and graded."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from chatglm.errors import UsageError
from chatglm.evaluate.item import Item

Kind = Literal["generate", "letters", "two-pass"]
Prompting = Literal["base", "chat"]
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to ask and to grade. Everything that moves a score stands here, and is printed beside it.

    Args:
        kind: "generate" has an answer written; "letters" takes the likeliest of the letters; "two-pass" has an answer
            written and then takes the likeliest letter behind it.
        template: the question as the model sees it; `{question}`, `{choices}` (a line each), `{options}` (in one
            line), `{passage}`, `{subject}`, `{tests}` are filled in.
        metric: how an answer is graded, a name of `grading.METRICS`.
        extractor: how the answer is found in what was written, a name of `extract.EXTRACTORS`.
        header: stands before everything, once.
        shots: examples before the question.
        answer: how an example goes on behind its question; `{letter}`, `{gold}`, `{worked}` are filled in.
        between: stands between examples.
        max_tokens: of what is written.
        stop: texts that end it.
        blank: whether a letter is scored with the blank that SentencePiece puts before a word.
        prompting: "base": the text as it is, behind `[gMASK] sop`; "chat": as a user's message.
        second: two-pass: what follows the answer that was written.
        longest: tokens of a prompt; of longer ones the middle is left out. None: what the context holds.
        mean: "items": every item counts the same; "subjects": every subject; "categories": every category of
            `Task.categories`, whose subjects count the same.
        without_choices: the protocol for items that have no choices.
        note: where it is in use.
    """

    kind: Kind
    template: str
    metric: str
    extractor: str = ""
    header: str = ""
    shots: int = 0
    answer: str = " {letter}"
    between: str = "\n\n"
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    blank: bool = True
    prompting: Prompting = "base"
    second: str = ""
    longest: int | None = None
    mean: Literal["items", "subjects", "categories"] = "items"
    without_choices: "Protocol | None" = None
    note: str = ""

    def told(self) -> dict[str, Any]:
        """The protocol as a report prints it: what differs from the defaults, and everything that decides."""
        always = {"kind", "template", "metric", "shots", "prompting"}
        plain = {name: value for name, value in asdict(self).items() if name != "without_choices"}
        told = {name: value for name, value in plain.items() if name in always or value != _DEFAULTS.get(name)}
        told["decoding"] = "log-probabilities of the letters" if self.kind == "letters" else "greedy"
        if self.kind != "letters":
            told["max_tokens"] = self.max_tokens
        if self.without_choices is not None:
            told["without_choices"] = self.without_choices.told()
        return told


_DEFAULTS = asdict(Protocol("generate", "", ""))


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark.

    Args:
        name: on the command line.
        title: in reports.
        source: where its data are published.
        licence: of the data.
        shape: which reader of `rows.py` its rows take.
        files: patterns below its folder, most wanted first; the first that matches any file is read.
        leave: pattern of files that these would match and that are something else.
        needs: what to put where, for whoever has no data yet.
        protocols: by name; the first is the default.
        answer_files: patterns of files whose rows, by `id`, complete those of `files`.
        shot_files: patterns of the files that examples are taken from.
        categories: name -> subjects, for reports.
        hub: file below its folder -> (name, configuration, split) in the `datasets` library; without a configuration
            there is a file for each, whose name stands for `*`.
        facts: reads what else the folder holds; gets the folder.
        adjust: changes the protocol for one subject: (protocol, subject, those facts).
        made: makes the items where there is no data to read: (what the user wants, a counter of tokens).
    """

    name: str
    title: str
    source: str
    licence: str
    shape: str
    protocols: Mapping[str, Protocol]
    files: tuple[str, ...] = ()
    leave: str = ""
    needs: str = ""
    answer_files: tuple[str, ...] = ()
    shot_files: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hub: Mapping[str, tuple[str, str | None, str]] = field(default_factory=dict)
    facts: Callable[[Path], Mapping[str, Any]] | None = None
    adjust: Callable[[Protocol, str, Mapping[str, Any]], Protocol] | None = None
    made: Callable[[Mapping[str, Any], Callable[[str], int]], list[Item]] | None = None

    def protocol(self, name: str | None, shots: int | None = None, prompting: Prompting | None = None) -> Protocol:
        """A protocol by name, with the user's changes.

        Raises:
            UsageError: there is none of that name, or it cannot be changed so.
        """
        name = name or next(iter(self.protocols))
        if name not in self.protocols:
            known = ", ".join(self.protocols)
            raise UsageError(f"task {self.name} has no protocol {name!r}; it must be one of: {known}")
        protocol = self.protocols[name]
        changes: dict[str, Any] = {}
        if shots is not None:
            if shots and not self.shot_files and self.facts is None:
                raise UsageError(f"--shots is {shots}; task {self.name} has no examples, so it must be 0")
            changes["shots"] = shots
        if prompting is not None:
            changes["prompting"] = prompting
        return replace(protocol, **changes)


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with `{name}` replaced by values; other braces are text.

    Values are never looked at again, so braces in a question stay what they are.
    """
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)
