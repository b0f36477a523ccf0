"""BIG-Bench Hard: 27 tasks, each with three published worked examples."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatglm.evaluate.files import read_text
from chatglm.evaluate.task import Protocol, Task


def examples(folder: Path) -> Mapping[str, Any]:
    """Subject -> the published text: what the task is, and three examples.

    Raises:
        ConfigError: the file is damaged.
    """
    import json

    from chatglm.errors import ConfigError

    whole = folder / "cot_prompts_3shot.json"
    if whole.is_file():
        try:
            told = json.loads(read_text(whole))
        except ValueError as error:
            raise ConfigError(f"{whole} is no JSON: {error}") from None
        if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
            raise ConfigError(f"{whole} must be an object with a text for each task")
        return told
    return {path.stem: read_text(path).rpartition("-----")[2].strip() for path in folder.glob("cot-prompts/*.txt")}


def with_examples(protocol: Protocol, subject: str, facts: Mapping[str, Any]) -> Protocol:
    """The protocol with the subject's examples in its header.

    Raises:
        ConfigError: there are none of the subject, or not so many.
    """
    from chatglm.errors import ConfigError

    if not protocol.shots:
        return replace(protocol, header="")
    if subject not in facts:
        raise ConfigError(
            f"BBH task {subject!r} has no worked examples; put cot-prompts/{subject}.txt of "
            "github.com/suzgunmirac/BIG-Bench-Hard into the folder of its data"
        )
    what, *shots = re.split(r"\n\n+(?=Q:)", facts[subject].strip())
    if protocol.shots > len(shots):
        raise ConfigError(f"--shots is {protocol.shots}; BBH has {len(shots)} worked examples for {subject!r}")
    chosen = shots[: protocol.shots]
    if "direct" in protocol.note:
        chosen = [_direct(shot) for shot in chosen]
    return replace(protocol, header=protocol.between.join((what, *chosen)), shots=0)


def _direct(shot: str) -> str:
    """A worked example without its work."""
    question, _, worked = shot.partition("\nA:")
    answer = worked.rpartition("answer is")[2].strip().removesuffix(".")
    return f"{question}\nA: {answer}"


TASK = Task(
    name="bbh",
    title="BIG-Bench Hard",
    source="github.com/suzgunmirac/BIG-Bench-Hard",
    licence="MIT",
    shape="problem",
    files=("test.jsonl", "bbh/*.jsonl", "bbh/*.json"),
    hub={"bbh/*.jsonl": ("SaylorTwift/bbh", None, "test")},
    needs="the folders bbh/ (*.json) and cot-prompts/ (*.txt) of the repository",
    facts=examples,
    adjust=with_examples,
    protocols={
        "cot": Protocol(
            kind="generate",
            template="Q: {question}\nA: Let's think step by step.\n",
            shots=3,
            extractor="stated",
            metric="statement",
            stop=("\nQ:", "\n\n"),
            mean="subjects",
            note='the 3 published worked examples; what is stated behind "the answer is"; mean of the 27 tasks',
        ),
        "direct": Protocol(
            kind="generate",
            template="Q: {question}\nA:",
            shots=3,
            extractor="stated",
            metric="statement",
            stop=("\nQ:", "\n\n"),
            max_tokens=64,
            mean="subjects",
            note="direct answers: the same examples without their work",
        ),
    },
)
