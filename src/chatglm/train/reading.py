"""The rows of a run: read from a file, what was met on the way told, and kept on the disk of the output folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatglm.errors import DataError, TrainingError
from chatglm.train.check import warnings
from chatglm.train.encoding import Example, Report, examples
from chatglm.train.formats import Columns
from chatglm.train.labels import LabelColumns, label_names, labelled
from chatglm.train.packing import PackedRows, PairRows, Rows
from chatglm.train.pairs import PairColumns, pairs
from chatglm.train.rows import read_rows
from chatglm.train.settings import Settings
from chatglm.train.store import Store
from chatglm.train.telling import say
from chatglm.words import Words


def labels_of(settings: Settings) -> list[str]:
    """The labels there are to learn; none where answers are learned.

    Raises:
        DataError: fewer than two, or the file cannot be read.
    """
    return [] if settings.task != "classify" else label_names(read_rows(settings.data), _label_columns(settings))


def read_store(
    path: str, settings: Settings, tokenizer: Any, out: Path, words: Words, labels: Sequence[str] = ()
) -> Store:
    """The examples of a file.

    Raises:
        DataError: bad rows that are not to be skipped. TrainingError: they cannot be kept.
    """
    report = Report()
    try:
        store = Store(_examples(path, settings, tokenizer, report, labels), out)
    except OSError as error:
        raise TrainingError(f"the rows of {path} cannot be kept on the disk of {out}: {error.strerror}") from error
    for line in warnings(report, settings.max_length, words):
        say(line)
    if report.bad and not settings.skip_bad_rows:
        raise DataError(
            f"{len(report.bad)} rows of {path} cannot be used (--skip-bad-rows leaves them out):\n{report.problems()}"
        )
    if report.bad:
        say(words("train_skipped", count=len(report.bad)) + "\n" + report.problems())
    if len(store):
        name = "train_pairs" if settings.method == "dpo" else "train_rows"
        say(words(name, rows=len(rows_of(store, settings)), tokens=store.num_tokens, file=path))
    return store


def evaluation_store(
    settings: Settings, tokenizer: Any, out: Path, words: Words, labels: Sequence[str] = ()
) -> Store | None:
    """The rows to measure on; None: there are none."""
    if settings.eval_data is None:
        return None
    store = read_store(settings.eval_data, settings, tokenizer, out, words, labels)
    if not len(store):
        say(words("train_no_eval", file=settings.eval_data))
        return None
    return store


def rows_of(store: Store, settings: Settings, packed: bool = False) -> Rows:
    """What the trainer draws from."""
    if settings.method == "dpo":
        return PairRows(store)
    return PackedRows(store, settings.max_length, settings.seed) if packed else Rows(store)


def longest(store: Store, settings: Settings) -> int:
    """Tokens of the longest row.

    Raises:
        DataError: there is no row.
    """
    if not len(store):
        raise DataError(f"{settings.data} holds no row that can be learned from")
    return settings.max_length if settings.packing else max(store.length(index) for index in range(len(store)))


def _examples(
    path: str, settings: Settings, tokenizer: Any, report: Report, labels: Sequence[str]
) -> Iterator[Example]:
    rows, names = read_rows(path), settings.columns
    if settings.task == "classify":
        return labelled(rows, tokenizer, settings.max_length, report, _label_columns(settings), labels)
    if settings.method == "dpo":
        return pairs(rows, tokenizer, settings.max_length, report, None if names is None else PairColumns.parse(names))
    return examples(rows, tokenizer, settings.max_length, report, None if names is None else Columns.parse(names))


def _label_columns(settings: Settings) -> LabelColumns:
    return LabelColumns() if settings.columns is None else LabelColumns.parse(settings.columns)
