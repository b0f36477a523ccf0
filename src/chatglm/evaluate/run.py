"""A run: every item of the chosen tasks is put to a model and graded, in whatever order suits the model.

What is done stands in the folder at once; a run that was ended goes on with the rest, and its report is the same.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chatglm.errors import ConfigError, UsageError
from chatglm.evaluate.asking import Asked, Query, Reply
from chatglm.evaluate.data import Data, data_files, evenly, load_data, made_data
from chatglm.evaluate.extract import EXTRACTORS
from chatglm.evaluate.folder import RunFolder, digest
from chatglm.evaluate.grading import METRICS, Grader, Verdict
from chatglm.evaluate.item import Item
from chatglm.evaluate.prompts import Prompt, Prompter
from chatglm.evaluate.task import Prompting, Protocol, Task

Told = Callable[[str, int, int], None]  # name of the task, items done, items in all
_DONE = "\x1f"  # stands between the parts of a query's key


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run.

    Args:
        chosen: tasks with the name of a protocol each.
        data_dir: where the data are.
        limit: items of each task, taken from its subjects in turn.
        shots, prompting: instead of the protocols' own.
        needle: lengths and depths for `needle`, where the user gave them.
    """

    chosen: list[tuple[Task, str | None]]
    data_dir: Path | None = None
    limit: int | None = None
    shots: int | None = None
    prompting: Prompting | None = None
    needle: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Part:
    """One task by one protocol, ready to be asked."""

    name: str
    task: Task
    protocol: Protocol
    protocol_name: str
    data: Data
    prompts: dict[str, Prompt]
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the items that are done

    @property
    def left(self) -> list[Prompt]:
        return [prompt for key, prompt in self.prompts.items() if key not in self.lines]


def check_data(plan: Plan) -> None:
    """Look whether the data are there, before a model is loaded for minutes.

    Raises:
        UsageError, ConfigError: they are not; the message says what to put where.
    """
    for task, _ in plan.chosen:
        if task.made is not None:
            continue
        if plan.data_dir is None:
            raise UsageError(f"{task.title} needs data; give --data-dir DIR, with {task.needs} in DIR/{task.name}")
        data_files(task, plan.data_dir)


def prepare(plan: Plan, asked: Asked) -> list[Part]:
    """Read all data and make all prompts, so that whatever is missing is told before anything is asked.

    Raises:
        ConfigError: data are missing or unfit. UsageError: a protocol that this model cannot be asked by.
    """
    check_data(plan)
    return [_part(plan, task, name, asked) for task, name in plan.chosen]


def settings_of(plan: Plan, parts: list[Part], asked: Asked) -> dict[str, Any]:
    """What decides about the results of a run."""
    tasks = {}
    for part in parts:
        texts = [
            [prompt.item.id, prompt.text, list(prompt.item.gold), *prompt.item.extra.get("tools", ())]
            for prompt in part.prompts.values()
        ]
        tasks[part.name] = {"protocol": part.protocol.told(), "items": len(texts), "prompts": digest(texts)}
    return {"model": dict(asked.about), "limit": plan.limit, "tasks": tasks}


def run(parts: list[Part], asked: Asked, folder: RunFolder, told: Told | None = None) -> dict[str, Any]:
    """Ask and grade what is not done yet; gives the speed of it.

    Raises:
        GenerationError, RemoteError: the model cannot answer. SandboxError: programs cannot be run.
    """
    for part in parts:
        part.lines = {line["id"]: line for line in folder.lines(part.name) if line["id"] in part.prompts}
    began, asked_now = time.monotonic(), 0
    with Grader() as grader:
        for metric in sorted({prompt.protocol.metric for part in parts for prompt in part.left}):
            grader.prepare(metric)
        for part in parts:
            asked_now += len(part.left)
            _run_part(part, asked, folder, grader, told)
    seconds = time.monotonic() - began
    return {"items": asked_now, "seconds": round(seconds, 1), **asked.speed()}


def _part(plan: Plan, task: Task, name: str | None, asked: Asked) -> Part:
    protocol = task.protocol(name, plan.shots, plan.prompting)
    known = name or next(iter(task.protocols))
    if protocol.kind != "generate" and protocol.prompting == "chat" and asked.context is None:
        written = next((other for other, one in task.protocols.items() if one.kind == "generate"), None)
        raise UsageError(
            f"{task.name}:{known} scores letters, which a server cannot do in the chat format; leave out "
            f"--prompting chat" + (f", or take {task.name}:{written}" if written else "")
        )
    if task.made is not None:
        wanted = {"context": asked.context or 4096, **plan.needle}
        data = made_data(task, wanted, asked.count)
    else:
        assert plan.data_dir is not None
        data = load_data(task, plan.data_dir)
    if protocol.extractor == "calls" and protocol.prompting != "chat":
        raise UsageError(f"{task.name}:{known} offers functions, which only the chat format can; leave out --prompting")
    prompter = Prompter(task, protocol, data)
    prompts = {item.id: prompter.prompt(item) for item in evenly(data.items, plan.limit)}
    for prompt in prompts.values():
        _check(prompt.protocol, task)
    _check_lengths(task, prompts.values(), asked)
    return Part(f"{task.name}.{known}", task, protocol, known, data, prompts)


def _check_lengths(task: Task, prompts: Iterable[Prompt], asked: Asked) -> None:
    """Refuse to ask in full what the protocol wants cut, where nobody can cut it."""
    limit, texts = None, 0
    for prompt in prompts:
        longest = prompt.protocol.longest
        if longest is not None and len(prompt.text.encode("utf-8", "surrogatepass")) > longest:
            limit, texts = longest, texts + 1
    if texts and not asked.shortens:
        raise UsageError(
            f"{task.title} leaves out the middle of prompts of more than {limit:,} tokens, and {texts:,} prompts may "
            "have more; that needs a server that answers /tokenize and /detokenize beside its /v1, as `chatglm serve` "
            "and vLLM do"
        )


def _check(protocol: Protocol, task: Task) -> None:
    """Refuse a protocol that names what does not exist: tasks are data, and may be wrong."""
    if protocol.metric not in METRICS:
        raise ConfigError(f"task {task.name} names the metric {protocol.metric!r}; it must be one of {METRICS}")
    if protocol.kind == "generate" and protocol.extractor not in EXTRACTORS:
        raise ConfigError(f"task {task.name} names the extractor {protocol.extractor!r}; known: {list(EXTRACTORS)}")


def _run_part(part: Part, asked: Asked, folder: RunFolder, grader: Grader, told: Told | None) -> None:
    waiting = deque(_query(prompt) for prompt in ordered(part.left))
    firsts: dict[str, Reply] = {}
    for reply in asked.replies(waiting):
        key, _, number = reply.key.partition(_DONE)
        prompt = part.prompts[key]
        if prompt.protocol.kind == "two-pass" and not number and reply.finish != "refused":
            firsts[key] = reply
            waiting.appendleft(_second(prompt, reply))
            continue
        line = graded(prompt, reply, firsts.pop(key, None), grader)
        folder.add(part.name, line)
        part.lines[key] = line
        if told is not None:
            told(part.name, len(part.lines), len(part.prompts))


def ordered(prompts: list[Prompt]) -> list[Prompt]:
    """Those that begin alike beside each other, the longest first: what comes last should not be waited for long."""
    longest: dict[str, int] = {}
    for prompt in prompts:
        longest[prompt.shared] = max(longest.get(prompt.shared, 0), len(prompt.text))
    return sorted(prompts, key=lambda prompt: (-longest[prompt.shared], prompt.shared, -len(prompt.text)))


def _query(prompt: Prompt) -> Query:
    protocol = prompt.protocol
    return Query(
        key=prompt.item.id,
        text=prompt.text,
        chat=protocol.prompting == "chat",
        letters=prompt.item.letters if protocol.kind == "letters" else (),
        blank=protocol.blank,
        max_tokens=protocol.max_tokens,
        stop=protocol.stop,
        shared=prompt.shared,
        tools=prompt.item.extra.get("tools", ()),
        longest=protocol.longest,
    )


def _second(prompt: Prompt, reply: Reply) -> Query:
    """The second pass: the likeliest letter behind what was written."""
    return replace(
        _query(prompt), key=prompt.item.id + _DONE + "2", text=prompt.second(reply.text), letters=prompt.item.letters
    )


def graded(prompt: Prompt, reply: Reply, first: Reply | None, grader: Grader) -> dict[str, Any]:
    """The line of an item: what was asked, what came, what was found in it, what would be right, and the verdict."""
    item, protocol = prompt.item, prompt.protocol
    extracted = _extracted(item, protocol, reply)
    verdict = Verdict(0.0, f"refused: {reply.error}") if reply.finish == "refused" else None
    if verdict is None and item.gold:
        verdict = _verdict(grader, protocol, item, extracted)
    line: dict[str, Any] = {
        "id": item.id,
        "subject": item.subject,
        "prompt": reply.prompt,
        "answer": first.text if first is not None else reply.text,
        "extracted": extracted,
        "gold": list(item.gold),
        "score": None if verdict is None else round(verdict.score, 6),
        "finish": reply.finish,
        "new_tokens": (reply.new_tokens or 0) + ((first.new_tokens or 0) if first is not None else 0),
    }
    if reply.logprobs:
        line["logprobs"] = {name: round(value, 4) for name, value in zip(item.letters, reply.logprobs, strict=True)}
    if dropped := reply.dropped + (first.dropped if first is not None else 0):
        line["dropped"] = dropped
    if verdict is not None and verdict.why:
        line["why"] = verdict.why
    if item.extra.get("length"):
        line["length"], line["depth"] = item.extra["length"], item.extra["depth"]
    return line


def _extracted(item: Item, protocol: Protocol, reply: Reply) -> str | None:
    if reply.logprobs:
        best = max(range(len(reply.logprobs)), key=reply.logprobs.__getitem__)
        return item.letters[best]
    return EXTRACTORS[protocol.extractor](reply.text, item) if protocol.kind == "generate" else None


def _verdict(grader: Grader, protocol: Protocol, item: Item, extracted: str | None) -> Verdict:
    if protocol.metric in ("letter", "letter set"):
        return grader.grade_letter(extracted, item, protocol.metric == "letter set")
    return grader.grade(protocol.metric, extracted, item)
