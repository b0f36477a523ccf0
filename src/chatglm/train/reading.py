"""The rows of a run: read from a file, what was met on the way told, and kept on the disk of the output folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatglm.errors import DataError, TrainingError
from chatglm.train.check import warnings
from chatglm.train.encoding import Report
from chatglm.train.packing import PackedRows, PairRows, Rows
from chatglm.train.settings import Settings
from chatglm.train.sources import read_examples
from chatglm.train.store import Store
from chatglm.train.telling import say
from chatglm.words import Words


def read_store(
    path: str, settings: Settings, tokenizer: Any, out: Path, words: Words, labels: Sequence[str] = ()
) -> Store:
    """The examples of a file.

    Raises:
        DataError: bad rows that are not to be skipped. TrainingError: they cannot be kept.
    """
    report = Report()
    try:
        found = read_examples(path, tokenizer, settings.max_length, report, settings.columns, settings.kind, labels)
        store = Store(found, out)
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
        name = "train_pairs" if settings.kind == "pairs" else "train_rows"
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
    if settings.kind == "pairs":
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
