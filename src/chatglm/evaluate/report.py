"""What a run comes to: scores with their intervals, the protocol beside each, and everything that was out of order."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from chatglm.evaluate.published import LONGBENCH, LONGBENCH_SOURCE, SOURCE, published
from chatglm.evaluate.run import Part
from chatglm.evaluate.statistics import interval, interval_of_means
from chatglm.words import Words

_COUNTS = {
    "malformed rows": "count_malformed",
    "labels withheld": "count_withheld",
    "nothing written": "count_silent",
    "no answer found": "count_unfound",
    "prompts shortened": "count_shortened",
    "cut at the limit": "count_cut",
    "refused": "count_refused",
}
_PACKAGES = ("chatglm", "torch", "transformers", "math-verify", "jieba")


def report_of(parts: Sequence[Part], about: Mapping[str, Any]) -> dict[str, Any]:
    """The report as data. Of the same items it is the same, however often the run was ended."""
    return {
        "model": dict(about),
        "versions": {"python": platform.python_version(), **versions()},
        "tasks": [_task(part) for part in parts],
    }


def versions() -> dict[str, str]:
    """The packages that have a say in a score, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def mean_of(groups: Mapping[str, Sequence[float]], how: str, categories: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The score of a task from those of its subjects: score, low, high in percent, and of each category.

    Args:
        groups: subject -> scores of its items, from 0 to 1.
        how: as `Protocol.mean`.
        categories: category -> subjects.
    """
    if how == "items":
        scores = [score for group in groups.values() for score in group]
        return _percent(math.fsum(scores) / len(scores), *interval(scores))
    if how == "subjects":
        chosen = {"all": list(groups)}
    else:
        chosen = {name: [one for one in subjects if one in groups] for name, subjects in categories.items()}
        chosen = {name: subjects for name, subjects in chosen.items() if subjects}
    means = {
        name: math.fsum(_mean(groups[one]) for one in subjects) / len(subjects) for name, subjects in chosen.items()
    }
    parts = [(groups[one], 1 / len(chosen) / len(subjects)) for subjects in chosen.values() for one in subjects]
    low, high = interval_of_means([group for group, _ in parts], [weight for _, weight in parts])
    total = _percent(math.fsum(means.values()) / len(means), low, high)
    return total | ({"categories": {name: _round(mean) for name, mean in means.items()}} if how == "categories" else {})


def _task(part: Part) -> dict[str, Any]:
    lines = [part.lines[key] for key in part.prompts if key in part.lines]
    graded = [line for line in lines if line["score"] is not None]
    groups: dict[str, list[float]] = {}
    for line in graded:
        groups.setdefault(line["subject"], []).append(line["score"])
    told: dict[str, Any] = {
        "task": part.task.name,
        "title": part.task.title,
        "protocol": part.protocol_name,
        "items": len(lines),
        "of": len(part.data.items),
        "counts": _counts(part, lines),
    }
    if graded:
        told |= mean_of(groups, part.protocol.mean, part.task.categories)
        told["subjects"] = {
            name: {"items": len(scores), "score": _round(_mean(scores))} for name, scores in sorted(groups.items())
        }
    if part.task.name == "needle":
        told["cells"] = _cells(lines)
    return told | {
        "how": part.protocol.told(),
        "source": part.task.source,
        "licence": part.task.licence,
        "files": part.data.files,
        "malformed": part.data.malformed,
        "published": published(part.task.name),
    }


def _counts(part: Part, lines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What was out of order; only what there is."""
    counts = {
        "malformed rows": len(part.data.malformed),
        "labels withheld": sum(line["score"] is None for line in lines),
        "nothing written": sum(not line["answer"] and "logprobs" not in line for line in lines),
        "no answer found": sum(line["extracted"] is None for line in lines),
        "prompts shortened": sum("dropped" in line for line in lines),
        "cut at the limit": sum(line["finish"] == "length" for line in lines),
        "refused": sum(line["finish"] == "refused" for line in lines),
    }
    return {name: count for name, count in counts.items() if count}


def _cells(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Needle: the share that was found, by length and depth."""
    found: dict[tuple[int, int], list[float]] = {}
    for line in lines:
        found.setdefault((line["length"], line["depth"]), []).append(line["score"])
    return [{"length": key[0], "depth": key[1], "score": _round(_mean(own))} for key, own in sorted(found.items())]


def as_json(report: Mapping[str, Any]) -> str:
    """The report as a JSON text."""
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def as_markdown(report: Mapping[str, Any], words: Words, pictures: Sequence[str] = ()) -> str:
    """The report as a page."""
    model = ", ".join(f"{name}: {value}" for name, value in report["model"].items())
    used = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"# {words('report_title', model=report['model'].get('model', ''))}", "", model, "", used, ""]
    lines += [f"![{words('report_scores')}]({name})\n" for name in pictures]
    if report["tasks"]:
        lines += [_row(words("report_columns").split("|")), _row(["---"] * 6)]
        lines += [_row(_cells_of(task)) for task in report["tasks"]] + [""]
    if told := report.get("perplexity"):
        lines += [f"## {words('report_perplexity')}", "", _row(["text", "tokens", "perplexity", "bits per byte"])]
        lines += [_row(["---"] * 4)]
        lines += [_row([one["text"], one["tokens"], one["perplexity"], one["bits_per_byte"]]) for one in told] + [""]
    if speed := report.get("speed"):
        lines += [f"## {words('report_speed')}", "", ", ".join(f"{k}: {v}" for k, v in speed.items()), ""]
    for task in report["tasks"]:
        lines += _section(task, words)
    return "\n".join(lines).rstrip() + "\n"


def summary(report: Mapping[str, Any], words: Words) -> str:
    """A line for each task, for the terminal."""
    lines = []
    for task in report["tasks"]:
        score = (
            words("no_labels")
            if "score" not in task
            else f"{task['score']:.2f}  [{task['low']:.2f}, {task['high']:.2f}]"
        )
        counts = "".join(f", {text}" for text in _counted(task, words))
        lines.append(
            f"{task['task']}:{task['protocol']}  {score}  "
            f"({words('of_items', items=task['items'], of=task['of'])}{counts})"
        )
    for one in report.get("perplexity", ()):
        lines.append(f"perplexity  {one['perplexity']}  ({one['text']}, {one['tokens']} tokens)")
    return "\n".join(lines)


def _counted(task: Mapping[str, Any], words: Words) -> list[str]:
    return [f"{words(_COUNTS[name])}: {count}" for name, count in task["counts"].items()]


def _cells_of(task: Mapping[str, Any]) -> list[str]:
    told = task["published"]
    reported = "; ".join(f"{model} {score}" for model, score in told.items())
    score = f"**{task['score']:.2f}**" if "score" in task else "-"
    between = f"{task['low']:.2f} to {task['high']:.2f}" if "score" in task else "-"
    return [task["title"], task["protocol"], score, between, f"{task['items']} / {task['of']}", reported or "-"]


def _section(task: Mapping[str, Any], words: Words) -> list[str]:
    lines = [f"## {task['title']}, {task['protocol']}", ""]
    lines += [f"{words('report_source')}: {task['source']}; {words('report_licence')}: {task['licence']}", ""]
    lines += [words("report_protocol"), "", "```json", json.dumps(task["how"], ensure_ascii=False, indent=1), "```", ""]
    if task["counts"]:
        lines += [", ".join(_counted(task, words)), ""]
    lines += [f"- {row}" for row in task["malformed"][:20]] + ([""] if task["malformed"] else [])
    if task["published"]:
        lines += [f"{words('report_published')}: {LONGBENCH_SOURCE if task['task'] == 'longbench' else SOURCE}.", ""]
    if categories := task.get("categories"):
        rows = {"this run": {"mean": task["score"], **categories}, **LONGBENCH}
        names = ["mean", *categories]
        lines += [_row(["", *names]), _row(["---"] * (len(names) + 1))]
        lines += [_row([model, *(scores.get(name, "-") for name in names)]) for model, scores in rows.items()] + [""]
    if len(task.get("subjects", ())) > 1:
        lines += [_row(["", "items", "score"]), _row(["---"] * 3)]
        lines += [_row([name, one["items"], f"{one['score']:.2f}"]) for name, one in task["subjects"].items()] + [""]
    return lines


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _percent(score: float, low: float, high: float) -> dict[str, float]:
    return {"score": _round(score), "low": _round(low), "high": _round(high)}


def _round(share: float) -> float:
    return round(100 * share, 2)
