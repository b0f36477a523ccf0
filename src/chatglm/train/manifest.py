"""`manifest.json`: all that is needed to repeat a run, and what it gave."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from chatglm.errors import ConfigError
from chatglm.model.files import read_json, write_json
from chatglm.model.weights import WeightFolder
from chatglm.train.rows import data_files
from chatglm.train.settings import CHANGEABLE, NAMES, Settings

FILE = "manifest.json"
_PACKAGES = ("chatglm", "torch", "transformers", "peft", "accelerate", "sentencepiece")


def begin(folder: Path, settings: Settings) -> dict[str, Any]:
    """What is known before the first step. `folder`: of the base."""
    return {
        "settings": settings.to_dict(),
        "base": {"folder": str(folder), "sha256": _weights_digest(folder)},
        "data": {path: _digest(path) for path in (settings.data, settings.eval_data) if path is not None},
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def write(out: Path, told: Mapping[str, Any]) -> None:
    """Written beside and moved into place."""
    part = out / f".{FILE}"
    write_json(part, told)
    os.replace(part, out / FILE)


def settings_of(out: str | Path) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
        ConfigError: there is none.
    """
    if not (Path(out) / FILE).is_file():
        raise ConfigError(f"{out} holds no run to resume; leave out --resume to begin one")
    found = read_json(Path(out) / FILE).get("settings")
    if not isinstance(found, dict):
        raise ConfigError(f"{Path(out) / FILE} does not say the settings of a run")
    return {name: value for name, value in found.items() if name in NAMES}


def check_same(out: Path, told: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the run in a folder was begun with the same data, base and settings."""
    before = read_json(out / FILE)
    settings = {name: value for name, value in settings_of(out).items() if name not in CHANGEABLE}
    for name, value in settings.items():
        now = told["settings"].get(name)
        if json.loads(json.dumps(now)) != value:
            raise ConfigError(f"{out} was begun with {name} {value!r}, now it is {now!r}; a run goes on as it began")
    if list(before["data"].values())[:1] != list(told["data"].values())[:1]:
        raise ConfigError(f"{out} was begun with other data than {told['settings']['data']} holds now")
    if before["base"]["sha256"] != told["base"]["sha256"]:
        raise ConfigError(f"{out} was begun on another base than {told['base']['folder']}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _digest(path: str) -> str:
    whole = hashlib.sha256()
    for file in data_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                whole.update(block)
    return whole.hexdigest()


def _weights_digest(folder: Path) -> str:
    """Of names, shapes and sizes, and the first bytes of each tensor: to read gigabytes would take minutes."""
    whole = hashlib.sha256((folder / "config.json").read_bytes())
    weights = WeightFolder(folder)
    for name in sorted(weights.tensors):
        info = weights.tensors[name]
        whole.update(f"{name} {list(info.shape)} {info.dtype}".encode())
    files = sorted({info.file for info in weights.tensors.values()})
    for file in files:
        with Path(file).open("rb") as stream:
            whole.update(stream.read(1 << 16))
            stream.seek(max(0, Path(file).stat().st_size - (1 << 20)))
            whole.update(stream.read())
    return whole.hexdigest()
