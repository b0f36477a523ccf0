"""The items of a task, from files in a folder. Rows that are no items are named and counted."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chatglm.errors import ConfigError
from chatglm.evaluate.files import find, read_rows, read_text
from chatglm.evaluate.item import Item
from chatglm.evaluate.rows import READERS, Malformed
from chatglm.evaluate.task import Task

_SPLITS = ("_test", "_dev", "_val", "_train")


@dataclass(slots=True)
class Data:
    """What was read.

    Args:
        items: in the order of the files.
        shots: subject -> items that may serve as examples.
        facts: what else the folder holds, as `Task.facts` reads it.
        malformed: a sentence for each row that is no item.
        names: subject -> its name in prompts.
        files: what was read, relative to the folder, with a hash each.
    """

    items: list[Item]
    shots: dict[str, list[Item]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    malformed: list[str] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def data_files(task: Task, data_dir: Path) -> list[Path]:
    """The files of a task's data, in the folder of its name.

    Raises:
        ConfigError: there are none; the message says what to put where.
    """
    folder = data_dir / task.name
    paths = [path for path in find(folder, task.files) if not fnmatch(path.name, task.leave)]
    if not paths:
        raise ConfigError(
            f"there are no data of {task.title} in {folder}; put there {task.needs} (source: {task.source}; licence: "
            f"{task.licence})"
        )
    return paths


def load_data(task: Task, data_dir: Path) -> Data:
    """The data of a task.

    Raises:
        ConfigError: there are none, or no row of them is an item.
    """
    folder, paths = data_dir / task.name, data_files(task, data_dir)
    data = Data([])
    data.items = _items(task, folder, paths, data, _answers(folder, find(folder, task.answer_files), data))
    if not data.items:
        why = "; ".join(data.malformed[:3]) or "there is none"
        raise ConfigError(f"no row of {paths[0]} is an item of {task.title}: {why}")
    _check_ids(data.items, folder)
    for item in _items(task, folder, find(folder, task.shot_files), data):
        data.shots.setdefault(item.subject, []).append(item)
    if task.facts is not None:
        data.facts = task.facts(folder)
    data.names = _names(folder)
    return data


def made_data(task: Task, wanted: Mapping[str, Any], count: Callable[[str], int]) -> Data:
    """The data of a task that makes its own."""
    assert task.made is not None
    return Data(task.made(wanted, count))


def evenly(items: list[Item], limit: int | None) -> list[Item]:
    """The first `limit` items, taken from the subjects in turn, in the order of the files."""
    if limit is None or limit >= len(items):
        return items
    by_subject: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        by_subject.setdefault(item.subject, []).append(index)
    longest = max(map(len, by_subject.values()))
    turns = [own[turn] for turn in range(longest) for own in by_subject.values() if turn < len(own)]
    return [items[index] for index in sorted(turns[:limit])]


def _answers(folder: Path, paths: list[Path], data: Data) -> dict[str, Mapping[str, Any]]:
    """What files of answers tell, by the id of the row it belongs to."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in paths:
        data.files[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        for row in read_rows(path):
            if isinstance(row.value, str) or not isinstance(row.value.get("id"), str):
                what = row.value if isinstance(row.value, str) else "it has no id"
                data.malformed.append(f"{path.relative_to(folder)}, row {row.number}: {what}")
            else:
                found[row.value["id"]] = row.value
    return found


def _items(
    task: Task,
    folder: Path,
    paths: list[Path],
    data: Data,
    answers: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> list[Item]:
    read, items = READERS[task.shape], []
    for path in paths:
        subject = _subject(path)
        data.files[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        for row in read_rows(path):
            where = f"{path.relative_to(folder)}, row {row.number}"
            try:
                if isinstance(row.value, str):
                    raise Malformed(row.value)
                if _elsewhere(task, row.value, path):
                    continue
                value = {**row.value, **answers.get(str(row.value.get("id")), {})}
                items.append(read(value, _id(value, subject, row.number), subject))
            except Malformed as error:
                data.malformed.append(f"{where}: {error}")
    return items


def _elsewhere(task: Task, row: Mapping[str, Any], path: Path) -> bool:
    """Whether a row of the one file of MBPP belongs to another part than the one for evaluation."""
    number = row.get("task_id")
    return task.name == "mbpp" and path.name.startswith("mbpp.") and isinstance(number, int) and not 11 <= number <= 510


def _id(row: Mapping[str, Any], subject: str, number: int) -> str:
    for name in ("id", "_id", "task_id"):
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            text = str(value)
            return text if name == "id" and "/" in text else f"{subject}/{text}"
    return f"{subject}/{number}"


def _check_ids(items: list[Item], folder: Path) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigError(f"two rows in {folder} have the id {item.id!r}; every item needs its own")
        seen.add(item.id)


def _subject(path: Path) -> str:
    name = path.name.removesuffix(".gz").rpartition(".")[0]
    for split in _SPLITS:
        name = name.removesuffix(split)
    return path.parent.name if path.parent.parent.name in ("test", "train") else name


def _names(folder: Path) -> dict[str, str]:
    """`subject_mapping.json`, where it is: a name, or a list whose second is the Chinese one, as C-Eval has it."""
    path = folder / "subject_mapping.json"
    if not path.is_file():
        return {}
    try:
        told = json.loads(read_text(path))
        return {subject: name if isinstance(name, str) else str(name[1]) for subject, name in told.items()}
    except (ValueError, AttributeError, LookupError, TypeError):
        raise ConfigError(f"{path} must be an object with a name for each subject") from None
