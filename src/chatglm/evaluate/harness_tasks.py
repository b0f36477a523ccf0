"""The tasks written for lm-evaluation-harness: a YAML and a file of items each, graded by this package's graders."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from chatglm.errors import UsageError
from chatglm.evaluate.extract import EXTRACTORS
from chatglm.evaluate.grading import Grader
from chatglm.evaluate.item import Item
from chatglm.evaluate.prompts import Prompt
from chatglm.evaluate.run import Part, Plan, prepare

_GRADING = '''"""Makes the model `chatglm` known, and grades the tasks beside this file as `chatglm evaluate` does."""

from chatglm.evaluate.harness import register
from chatglm.evaluate.harness_tasks import process as process

register()
'''


class _Nobody:
    """Stands for a model where nothing is asked."""

    context: int | None = 2**20
    about: Mapping[str, Any] = {}
    shortens = True

    def count(self, text: str) -> int:
        return len(text) // 4

    def replies(self, waiting: Any) -> Any:
        raise NotImplementedError

    def speed(self) -> Mapping[str, Any]:
        return {}


def export(plan: Plan, folder: Path) -> str:
    """Write the chosen tasks; gives a sentence for each.

    Raises:
        UsageError: a protocol that the harness has no form for. ConfigError: data are missing or unfit.
    """
    if any(task.made is not None for task, _ in plan.chosen):
        raise UsageError("needle makes its own texts from the model's tokenizer; it cannot be exported")
    told = []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chatglm_grading.py").write_text(_GRADING, encoding="utf-8")
    for part in prepare(plan, _Nobody()):
        if part.protocol.extractor == "calls":
            raise UsageError(f"{part.name} offers functions, which the harness cannot do; choose another task")
        if part.protocol.kind == "two-pass":
            raise UsageError(f"{part.name} asks twice, which the harness cannot do; choose another protocol")
        for name, prompts in _divided(part).items():
            (folder / f"{name}.jsonl").write_text("".join(map(_row, prompts)), encoding="utf-8")
            (folder / f"{name}.yaml").write_text(_yaml(name, prompts[0], folder), encoding="utf-8")
            chat = " (with --apply_chat_template)" if prompts[0].protocol.prompting == "chat" else ""
            told.append(f"{name}: {len(prompts)} items{chat}\n")
    return "".join(told)


def process(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """The score of one item: what `chatglm evaluate` would give it."""
    item = Item(
        doc["id"], doc["subject"], doc["question"], tuple(doc["gold"]), tuple(doc["choices"]),
        tests=tuple(doc["tests"]), setup=doc["setup"], extra={"classes": tuple(doc["classes"])},
    )  # fmt: skip
    if doc["metric"].startswith("letter") and doc["extractor"] == "":
        scores = [score for score, _ in results]
        letter = item.letters[max(range(len(scores)), key=scores.__getitem__)]
        return {"score": _grader().grade_letter(letter, item, together=False).score}
    text = results[0].strip() if doc["chat"] else results[0]
    found = EXTRACTORS[doc["extractor"]](text, item)
    if doc["metric"].startswith("letter"):
        return {"score": _grader().grade_letter(found, item, doc["metric"] == "letter set").score}
    return {"score": _grader().grade(doc["metric"], found, item).score}


@cache
def _grader() -> Grader:
    return Grader()


def _divided(part: Part) -> dict[str, list[Prompt]]:
    """A file holds items of one way to ask; where subjects differ in it, there are several."""
    found: dict[tuple[Any, ...], list[Prompt]] = {}
    for prompt in part.prompts.values():
        protocol = prompt.protocol
        how = (protocol.kind, len(prompt.item.choices), protocol.max_tokens, protocol.stop, protocol.prompting)
        found.setdefault(how, []).append(prompt)
    name = "chatglm_" + part.name.replace(".", "_").replace("-", "_")
    if len(found) == 1:
        return {name: next(iter(found.values()))}
    return {f"{name}_{number}": prompts for number, prompts in enumerate(found.values(), 1)}


def _row(prompt: Prompt) -> str:
    item, protocol = prompt.item, prompt.protocol
    letters = protocol.kind == "letters"
    return (
        json.dumps(
            {
                "id": item.id, "subject": item.subject, "prompt": prompt.text, "question": item.question,
                "gold": list(item.gold), "choices": list(item.choices), "tests": list(item.tests),
                "setup": item.setup, "classes": list(item.extra.get("classes", ())),
                "options": [(" " if protocol.blank else "") + letter for letter in item.letters] if letters else [],
                "target": item.letters.index(item.gold[0]) if letters and item.gold else 0,
                "extractor": "" if letters else protocol.extractor, "metric": protocol.metric,
                "chat": protocol.prompting == "chat",
            },
            ensure_ascii=False,
        )
        + "\n"
    )  # fmt: skip


def _yaml(name: str, prompt: Prompt, folder: Path) -> str:
    """JSON is YAML; only the function needs a tag."""
    protocol = prompt.protocol
    told: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str((folder / f"{name}.jsonl").resolve())}},
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "{{prompt}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "score", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "protocol": protocol.note},
    }
    if protocol.kind == "letters":
        told |= {"output_type": "multiple_choice", "doc_to_choice": "{{options}}", "doc_to_target": "{{target}}"}
    else:
        options = {"until": list(protocol.stop), "max_gen_toks": protocol.max_tokens, "do_sample": False}
        told |= {"output_type": "generate_until", "doc_to_target": "", "generation_kwargs": options}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in told.items()]
    return "\n".join([*lines, "process_results: !function chatglm_grading.process"]) + "\n"
