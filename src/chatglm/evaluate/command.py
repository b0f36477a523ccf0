"""`chatglm evaluate`."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatglm.errors import UsageError
from chatglm.evaluate.asking import Asked
from chatglm.evaluate.compare import as_text, compare
from chatglm.evaluate.folder import RunFolder
from chatglm.evaluate.picture import bars, heat_map
from chatglm.evaluate.report import as_json, as_markdown, report_of, summary
from chatglm.evaluate.run import Part, Plan, Told, check_data, prepare, run, settings_of
from chatglm.evaluate.tasks import TASKS, named
from chatglm.words import Words, choose, printable


def start_evaluate(options: argparse.Namespace) -> int:
    """Run `chatglm evaluate` with parsed options.

    Raises:
        UsageError, ConfigError: contradictory options, missing or unfit data; whatever loading and asking raise.
    """
    words = choose(options.lang)
    if options.list:
        sys.stdout.write(_list())
        return 0
    if options.compare:
        found = compare(*map(Path, options.compare))
        sys.stdout.write(json.dumps(found, indent=1) + "\n" if options.json else printable(as_text(found, words)))
        return 0
    plan = _plan(options)
    if options.export_lm_eval:
        from chatglm.evaluate.harness_tasks import export

        sys.stdout.write(export(plan, Path(options.export_lm_eval)))
        return 0
    if options.out is None:
        raise UsageError("--out is missing; name a folder for the answers and the report")
    if options.download:
        from chatglm.evaluate.download import download

        assert plan.data_dir is not None
        download([task for task, _ in plan.chosen], plan.data_dir, sys.stderr.write)
    _evaluate(options, plan, words)
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    for name, least in (("limit", 1), ("shots", 0), ("at_once", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")
    if not options.tasks and not options.text:
        raise UsageError(f"--tasks is missing; it must be some of: {', '.join(TASKS)}")
    if options.download and options.data_dir is None:
        raise UsageError("--download needs --data-dir, the folder to put the data in")
    if options.text and options.api_base:
        raise UsageError("--text needs the model itself; leave out --api-base")
    return Plan(
        chosen=named(options.tasks) if options.tasks else [],
        data_dir=None if options.data_dir is None else Path(options.data_dir),
        limit=options.limit,
        shots=options.shots,
        prompting=options.prompting,
        needle={"lengths": _numbers(options.needle_lengths, "--needle-lengths", 64, 2**20),
                "depths": _numbers(options.needle_depths, "--needle-depths", 0, 100)},
    )  # fmt: skip


def _numbers(text: str | None, name: str, least: int, most: int) -> list[int]:
    if text is None:
        return []
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(least <= number <= most for number in numbers):
        raise UsageError(f"{name} is {text!r}; it must be whole numbers from {least} to {most} with commas between")
    return sorted(set(numbers))


def _evaluate(options: argparse.Namespace, plan: Plan, words: Words) -> None:
    check_data(plan)
    asked, loaded = _asked(options)
    parts = prepare(plan, asked)
    for part in parts:
        for row in part.data.malformed:
            sys.stderr.write(printable(f"chatglm: {part.task.name}: {row}\n"))
    with RunFolder(Path(options.out), settings_of(plan, parts, asked) | {"text": options.text}) as folder:
        speed = run(parts, asked, folder, _progress(words))
        report = report_of(parts, asked.about)
        if options.text:
            assert loaded is not None
            report["perplexity"] = [_perplexity(text, *loaded) for text in options.text]
        write_reports(folder, parts, report | {"speed": speed | _memory()}, words)
    sys.stdout.write(printable(summary(report, words)) + "\n" + words("reports_in", folder=options.out) + "\n")


def write_reports(folder: RunFolder, parts: list[Part], report: dict[str, Any], words: Words) -> None:
    """The report in JSON, Markdown and pictures; for withheld labels the file to hand in."""
    pictures = {"report.svg": bars(report)} if any("score" in task for task in report["tasks"]) else {}
    for task in report["tasks"]:
        if task.get("cells"):
            pictures["needle.svg"] = heat_map(task["cells"])
    for name, text in pictures.items():
        folder.replace(name, text)
    for part in parts:
        answers = _withheld(part)
        if answers:
            folder.replace(f"submission-{part.name}.json", json.dumps(answers, ensure_ascii=False, indent=1) + "\n")
    folder.replace("report.json", as_json(report))
    folder.replace("report.md", as_markdown(report, words, list(pictures)))


def _withheld(part: Part) -> dict[str, dict[str, str]]:
    """Subject -> number of the question -> letter, as C-Eval takes it, of what has no label."""
    found: dict[str, dict[str, str]] = {}
    for key, prompt in part.prompts.items():
        line = part.lines.get(key)
        if line is not None and line["score"] is None:
            number = key.rpartition("/")[2]
            found.setdefault(prompt.item.subject, {})[number] = line["extracted"] or ""
    return found


def _asked(options: argparse.Namespace) -> tuple[Asked, tuple[Any, Any] | None]:
    """Who answers: a server, or a model that is loaded here."""
    if options.api_base:
        from chatglm.agent.remote_api import RemoteApi, key_from
        from chatglm.evaluate.server import ServerModel

        api = RemoteApi(options.api_base, key_from(options.api_key_env))
        name = options.model or _only_model(api)
        return ServerModel(api, name, options.at_once or 16), None
    from chatglm.evaluate.local import AT_ONCE, LocalModel
    from chatglm.loading import load_as

    loaded = load_as(options)
    name = "tiny-glm (embedded)" if options.model is None else str(options.model)
    name = ", ".join(filter(None, (name, options.quantize, options.adapter, options.prefix)))
    return LocalModel(*loaded, name, options.at_once or AT_ONCE), loaded


def _only_model(api: Any) -> str:
    names = [entry["id"] for entry in api.get("/models").get("data", [])]
    if len(names) != 1:
        raise UsageError(f"the server has the models {names}; name one of them as MODEL")
    return str(names[0])


def _perplexity(path: str, model: Any, tokenizer: Any) -> dict[str, Any]:
    from chatglm.evaluate.perplexity import perplexity, read_text

    text = read_text(path)
    found = perplexity(model, tokenizer, text, min(2048, model.config.max_position_embeddings))
    return {
        "text": Path(path).name, "tokens": found.tokens, "windows": found.windows,
        "perplexity": round(found.value, 4), "bits_per_byte": round(found.bits_per_byte, 4),
    }  # fmt: skip


def _progress(words: Words) -> Told | None:
    """A bar on a terminal, with a guess of the time that is left of the task."""
    from chatglm.progress import progress_line

    step = progress_line()
    return None if step is None else Progress(step, words)


class Progress:
    """Tells how far a task is, and for how long it will go on at this pace."""

    def __init__(self, step: Callable[[str, int, int], None], words: Words) -> None:
        self._step, self._words = step, words
        self._name, self._began, self._first = "", 0.0, 0

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if name != self._name:
            self._name, self._began, self._first = name, now, done
        pace = (now - self._began) / max(1, done - self._first)
        minutes, seconds = divmod(round(pace * (total - done)), 60)
        left = self._words("time_left", time=f"{minutes}:{seconds:02}") if done > self._first else ""
        self._step(f"{name} {left}", done, total)


def _memory() -> dict[str, float]:
    """The most memory this process has had, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)}


def _list() -> str:
    lines = []
    for task in TASKS.values():
        lines.append(f"{task.name}: {task.title}; {task.source}; {task.licence}")
        lines += [f"  {task.name}:{name}  {protocol.note}" for name, protocol in task.protocols.items()]
    return "\n".join(lines) + "\n"
