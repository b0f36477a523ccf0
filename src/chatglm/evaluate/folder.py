"""The folder of a run: its settings, a line for each item that is done, and the reports. One run writes it at a time.

A line is written whole and at once, so a run that is killed leaves at most half a line, which the next one drops.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatglm.errors import ConfigError, UsageError

SETTINGS, LOCK, ITEMS = "run.json", "run.lock", "items"


class RunFolder:
    """A folder that a run writes into.

    Args:
        path: new, or of an earlier run with the same settings.
        settings: what decides about the results; the folder of another run is refused.

    Raises:
        UsageError: it holds another run, something else, or is written by somebody already.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._files: dict[str, Any] = {}
        try:
            (path / ITEMS).mkdir(parents=True, exist_ok=True)
            self._lock_file = (path / LOCK).open("ab")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}; name another --out") from None
        try:
            self._lock()
            self._check(settings)
        except BaseException:
            self._lock_file.close()
            raise

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self._files.values(), self._lock_file):
            file.close()

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """What was written under a name; half a line at the end is cut off."""
        path = self._path(name)
        if not path.exists():
            return
        end = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                yield _parsed(path, number, line)
                end += len(line)
        if end < path.stat().st_size:
            os.truncate(path, end)

    def add(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            ConfigError: it cannot be written; the disk is full, for instance. What was written before stays whole.
        """
        if name not in self._files:
            self._files[name] = self._path(name).open("ab", buffering=0)
        file = self._files[name]
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        before = file.seek(0, os.SEEK_END)
        try:
            written = file.write(line)
            error: OSError | None = None
        except OSError as failed:
            written, error = 0, failed
        if written != len(line):
            os.truncate(file.fileno(), before)
            why = error.strerror if error is not None else "the disk is full"
            raise ConfigError(f"{self._path(name)} cannot be written: {why}; make room and run the same command again")

    def replace(self, name: str, text: str) -> None:
        """Write a report, whole or not at all.

        Raises:
            ConfigError: it cannot be written.
        """
        target = self.path / name
        beside = target.with_name(name + ".new")
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, target)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise ConfigError(
                f"{target} cannot be written: {error.strerror or error}; make room and run again"
            ) from None

    def _path(self, name: str) -> Path:
        return self.path / ITEMS / f"{name}.jsonl"

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{self.path} is written by another run; wait for it, or name another --out") from None

    def _check(self, settings: Mapping[str, Any]) -> None:
        path = self.path / SETTINGS
        wanted = json.loads(json.dumps(settings))
        if not path.exists():
            if any((self.path / ITEMS).iterdir()):
                raise UsageError(f"{self.path} holds items and no {SETTINGS}; name another --out")
            self.replace(SETTINGS, json.dumps(wanted, ensure_ascii=False, indent=1) + "\n")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError:
            raise UsageError(f"{path} is no JSON; name another --out") from None
        if found != wanted:
            known = found if isinstance(found, dict) else {}
            names = sorted(name for name in {*known, *wanted} if known.get(name) != wanted.get(name))
            raise UsageError(
                f"{self.path} holds another run, with other {', '.join(names)}; name another --out, or repeat that run"
            )


def read_items(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The items of a finished or broken-off run: file name -> item -> line. Nothing is changed.

    Raises:
        UsageError: it is no folder of a run.
    """
    if not (folder / SETTINGS).is_file():
        raise UsageError(f"{folder} is no folder of a run: it has no {SETTINGS}")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((folder / ITEMS).glob("*.jsonl")):
        with path.open("rb") as file:
            whole = [line for line in file if line.endswith(b"\n")]
        rows = [_parsed(path, number, line) for number, line in enumerate(whole, 1)]
        found[path.stem] = {row["id"]: row for row in rows}
    return found


def digest(value: Any) -> str:
    """A short hash of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
        if isinstance(value, dict) and isinstance(value["id"], str):
            return value
    except (ValueError, KeyError):
        pass
    raise UsageError(f"line {number} of {path} is no item of a run; name another --out")
