"""Fetches data through the `datasets` library, as it has them, into the files that the readers look for."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chatglm.errors import ConfigError, MissingExtraError
from chatglm.evaluate.files import find
from chatglm.evaluate.task import Task


def download(tasks: Iterable[Task], data_dir: Path, tell: Callable[[str], object]) -> None:
    """Fetch the data of each task that has none yet; the licence is told before.

    Raises:
        MissingExtraError: `datasets` is not installed. ConfigError: it cannot be fetched from there.
    """
    for task in tasks:
        folder = data_dir / task.name
        if task.made is not None or find(folder, task.files):
            continue
        if not task.hub:
            raise ConfigError(f"{task.title} cannot be fetched through datasets; put {task.needs} into {folder}")
        for file, (name, config, split) in task.hub.items():
            tell(f"chatglm: {task.title}: fetching {name}, {split}; licence: {task.licence}\n")
            for one in [config] if config is not None else _configs(name):
                _fetch(folder / file.replace("*", one), name, one, split)


def _configs(name: str) -> list[str]:
    try:
        found: list[str] = _library().get_dataset_config_names(name)
    except (OSError, ValueError) as error:
        raise _unreachable(name, error) from None
    return found


def _fetch(path: Path, name: str, config: str, split: str) -> None:
    """One file, whole or not at all."""
    try:
        rows = _library().load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:
        raise _unreachable(name, error) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
    os.replace(beside, path)


def _unreachable(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{name} cannot be fetched: {str(error).partition(chr(10))[0] or repr(error)}")


def _library() -> Any:
    try:
        import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError("datasets", "download", "--download") from None
    return datasets
