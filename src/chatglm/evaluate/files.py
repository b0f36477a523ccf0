"""Rows of data files: csv, json lines, json, each also gzipped."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm.errors import ConfigError

MOST_BYTES = 2**30  # of one file, unpacked
_KINDS = (".csv", ".jsonl", ".json")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it stands, and what it holds; a text says why it is none."""

    path: Path
    number: int  # from 1
    value: dict[str, Any] | str


def find(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files of the first pattern that matches any, in the order of their names."""
    for pattern in patterns:
        names = (pattern, pattern + ".gz")
        if found := sorted({path for name in names for path in folder.glob(name) if path.is_file()}):
            return found
    return []


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        ConfigError: it cannot be read, or is of a kind that is not known.
    """
    name = path.name.removesuffix(".gz")
    kind = Path(name).suffix
    if kind not in _KINDS:
        raise ConfigError(f"{path} is no data file; it must end in {', '.join(_KINDS)}, or one of these and .gz")
    text = read_text(path)
    if kind == ".csv":
        yield from _csv_rows(path, text)
    elif kind == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield Row(path, number, _json_row(line))
    else:
        yield from _json_rows(path, text)


def read_text(path: Path) -> str:
    """The text of a file, unpacked.

    Raises:
        ConfigError: it cannot be read, is larger than a gigabyte, or is no UTF-8.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opener(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} has more than {MOST_BYTES} bytes; divide it")
    try:
        return bytes(data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}") from None


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    """With a header where there is one; the files of MMLU have none: question, choices, letter."""
    table = list(csv.reader(io.StringIO(text, newline="")))
    if not table:
        return
    names = [name.strip().lower() for name in table[0]]
    if "question" in names:
        for number, cells in enumerate(table[1:], 2):
            fits = len(cells) == len(names)
            value: Any = dict(zip(names, cells, strict=True)) if fits else _cells(len(cells), len(names))
            yield Row(path, number, value)
        return
    for number, cells in enumerate(table, 1):
        whole = len(cells) >= 4
        value = {"question": cells[0], "choices": cells[1:-1], "answer": cells[-1]} if whole else _cells(len(cells), 6)
        yield Row(path, number, value)


def _cells(seen: int, wanted: int) -> str:
    return f"it has {seen} columns; it must have {wanted}"


def _json_row(line: str) -> dict[str, Any] | str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "it is no JSON"
    return value if isinstance(value, dict) else "it is no JSON object"


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    """A list of rows, a row, the rows under `examples`, as BBH has them, or a row in each line, as BFCL has them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and isinstance(_json_row(lines[0]), dict):
            for number, line in enumerate(lines, 1):
                yield Row(path, number, _json_row(line))
            return
        raise ConfigError(f"{path} is no JSON: {error}") from None
    rows = value.get("examples", [value]) if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise ConfigError(f"{path} holds a {type(rows).__name__}; it must be a list of rows")
    for number, row in enumerate(rows, 1):
        yield Row(path, number, row if isinstance(row, dict) else "it is no JSON object")
