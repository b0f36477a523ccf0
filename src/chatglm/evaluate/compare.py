"""Two runs item by item: what has changed, and whether that can be chance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatglm.errors import UsageError
from chatglm.evaluate.folder import read_items
from chatglm.evaluate.statistics import paired
from chatglm.words import Words

_SHOWN = 10  # changed items of each task that are named


def compare(before: Path, after: Path) -> list[dict[str, Any]]:
    """For each task that both runs have: scores over the items that both have graded, p, and the items that changed.

    Raises:
        UsageError: a folder is none of a run, or they have no item in common.
    """
    old, new = read_items(before), read_items(after)
    found = [_compared(name, old[name], new[name]) for name in old if name in new]
    found = [one for one in found if one["items"]]
    if not found:
        raise UsageError(f"{before} and {after} have no graded item in common; both must be runs of the same tasks")
    return found


def as_text(found: Sequence[Mapping[str, Any]], words: Words) -> str:
    """The comparison as lines to print."""
    lines = []
    for one in found:
        change = one["after"] - one["before"]
        lines.append(
            f"{one['task']}  {one['before']:.2f} -> {one['after']:.2f}  ({change:+.2f}, p = {one['p']:.3g})  "
            + words(
                "compared", items=one["items"], better=len(one["better"]), worse=len(one["worse"]), only=one["only"]
            )
        )
        for mark, keys in (("+", one["better"]), ("-", one["worse"])):
            lines += [f"  {mark} {key}" for key in keys[:_SHOWN]]
            if len(keys) > _SHOWN:
                lines.append(f"  {mark} ... {len(keys) - _SHOWN}")
    return "\n".join(lines) + "\n"


def _compared(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    keys = [key for key in old if key in new and old[key]["score"] is not None and new[key]["score"] is not None]
    before, after = ([run[key]["score"] for key in keys] for run in (old, new))
    count = max(1, len(keys))
    return {
        "task": name.replace(".", ":", 1),
        "items": len(keys),
        "only": len(set(old) ^ set(new)),
        "before": round(100 * sum(before) / count, 2),
        "after": round(100 * sum(after) / count, 2),
        "p": paired(before, after),
        "better": sorted(key for key in keys if new[key]["score"] > old[key]["score"]),
        "worse": sorted(key for key in keys if new[key]["score"] < old[key]["score"]),
        "answers_changed": sum(old[key]["answer"] != new[key]["answer"] for key in keys),
    }
