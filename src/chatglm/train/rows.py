"""Rows of a data file, one after another, each with the place it stands in; no file is held in memory.

What cannot be read is a row too, with the reason: whoever reads decides whether that ends the work.
"""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from chatglm.errors import DataError, MissingExtraError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
_CHUNK = 1 << 20  # characters of a list that are read at a time
_BLANKS = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        file: it is from.
        number: its line; of parquet, which has no lines, its number.
        value: as the file has it.
        problem: why it could not be read; `value` is then None.
    """

    file: Path
    number: int
    value: Any
    problem: str | None = None

    @property
    def place(self) -> str:
        """File and line, as messages name them."""
        return f"{self.file}, {'row' if self.file.suffix == '.parquet' else 'line'} {self.number}"


def data_files(path: str | Path) -> list[Path]:
    """The file, or the data files of a folder in order of their names.

    Raises:
        DataError: it is not there, of a kind that is not read, or a folder without any.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and not one.name.startswith("."))
        if not files:
            raise DataError(f"{path} holds no data file; its files must end in {', '.join(SUFFIXES)}")
        return files
    if not path.is_file():
        raise DataError(f"there is no data file {path}")
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} ends in {path.suffix!r}; a data file must end in {', '.join(SUFFIXES)}")
    return [path]


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file or folder, read as they are asked for.

    `.jsonl`: a JSON object on each line. `.json`: a list of them, or as `.jsonl`. `.csv`: a heading line. `.parquet`:
    needs pyarrow. `.txt`: texts divided by blank lines, each a row `{"text": ...}`.

    Raises:
        DataError: see `data_files`; a file that is not of its kind from some point on.
        MissingExtraError: pyarrow is not installed.
    """
    for file in data_files(path):
        try:
            yield from _READERS[file.suffix](file)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _lines(file: Path) -> Iterator[tuple[int, str, str | None]]:
    """Line numbers from 1, the line, and what is wrong where it is no UTF-8."""
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8"), None
            except UnicodeDecodeError as error:
                yield number, "", f"it is not UTF-8: {error}"


def _jsonl(file: Path) -> Iterator[Row]:
    for number, line, problem in _lines(file):
        if problem is not None:
            yield Row(file, number, None, problem)
        elif line.strip():
            try:
                yield Row(file, number, json.loads(line))
            except (ValueError, RecursionError) as error:
                yield Row(file, number, None, f"it is not JSON: {error}")


def _json(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as stream:
        try:
            start = stream.read(_CHUNK).lstrip()[:1]
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8: {error}") from error
        if start == "[":
            stream.seek(0)
            yield from _List(file, stream).rows()
    if start != "[":
        yield from _jsonl(file)


class _List:
    """A JSON list that is read item by item."""

    def __init__(self, file: Path, stream: TextIO) -> None:
        self.file, self.stream = file, stream
        self.text, self.line, self.ended = "", 1, False
        self.decoder = json.JSONDecoder()

    def rows(self) -> Iterator[Row]:
        self._skip()
        self._take(1)  # the bracket
        while self._skip() != "]":
            number = self.line
            yield Row(self.file, number, self._item())
            if self._skip() == ",":
                self._take(1)
            elif self._skip() != "]":
                raise DataError(f"{self.file}, line {self.line}: a comma or ']' must follow; found {self.text[:20]!r}")

    def _item(self) -> Any:
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text)
                # What is read of a number may be the beginning of another one.
                whole = not isinstance(value, (int, float)) or self.text[end:].lstrip(_BLANKS)[:1] in (",", "]")
                if whole and end < len(self.text) or not self._read():
                    self._take(end)
                    return value
            except (ValueError, RecursionError) as error:
                if not self._read():
                    raise DataError(f"{self.file}, the item that begins on line {self.line}: {error}") from error

    def _skip(self) -> str:
        """Pass blanks; gives the next character."""
        while True:
            rest = self.text.lstrip(_BLANKS)
            self._take(len(self.text) - len(rest))
            if self.text:
                return self.text[0]
            if not self._read():
                raise DataError(f"{self.file} ends on line {self.line} inside its list; a ']' is missing")

    def _take(self, count: int) -> None:
        self.line += self.text.count("\n", 0, count)
        self.text = self.text[count:]

    def _read(self) -> bool:
        try:
            more = self.stream.read(max(_CHUNK, len(self.text)))  # doubles, so that a long item is not tried often
        except UnicodeDecodeError as error:
            raise DataError(f"{self.file} is not UTF-8 after line {self.line}: {error}") from error
        self.text += more
        return bool(more)


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            for cells in reader:
                extra = cells.pop(None, None)
                problem = f"it has {len(extra)} cells more than the heading" if extra else None
                value = {name: cell for name, cell in cells.items() if cell not in (None, "")}
                yield Row(file, reader.line_num, None if problem else value, problem)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{file}, after line {reader.line_num}: {error}") from error


def _parquet(file: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", f"Reading {file}") from error
    try:
        number = 0
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(file, number, _without_missing(value))
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file} is no parquet file: {error}") from error


def _without_missing(value: Any) -> Any:
    """Columns of structures have every field in every row; those that are null were not there."""
    if isinstance(value, dict):
        return {name: _without_missing(one) for name, one in value.items() if one is not None}
    return [_without_missing(one) for one in value] if isinstance(value, list) else value


def _txt(file: Path) -> Iterator[Row]:
    block: list[str] = []
    first = 1
    for number, line, problem in _lines(file):
        if problem is not None:
            yield Row(file, number, None, problem)
        elif line.strip():
            first = first if block else number
            block.append(line.rstrip("\r\n"))
        elif block:
            yield Row(file, first, {"text": "\n".join(block)})
            block = []
    if block:
        yield Row(file, first, {"text": "\n".join(block)})


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".txt": _txt}
