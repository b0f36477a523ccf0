"""Rows that hold a text and its label: `{"text": "...", "label": "..."}`, in any file that `rows.py` reads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatglm.errors import DataError
from chatglm.train.encoding import Example, Report
from chatglm.train.rows import Row
from chatglm.train.sample import Sample

if TYPE_CHECKING:
    from chatglm.model.tokenizer import ChatGLMTokenizer


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """Names of the columns."""

    text: str = "text"
    label: str = "label"

    @classmethod
    def parse(cls, text: str) -> "LabelColumns":
        """`sentence,kind`.

        Raises:
            DataError: not two names.
        """
        names = [name.strip() for name in text.split(",")]
        if len(names) != 2 or not all(names):
            raise DataError(f"columns are {text!r}; of texts with labels they must be two names: text,label")
        return cls(*names)


def label_names(rows: Iterable[Row], columns: LabelColumns) -> list[str]:
    """The labels that rows have, in order: by their number, where all are numbers. Rows that have none are left out.

    Raises:
        DataError: fewer than two.
    """
    found: set[str] = set()
    problem = "there is no row"
    for row in rows:
        try:
            found.add(_read(row, columns)[1])
        except DataError as error:  # told again, with all others, when the rows are read
            problem = f"{row.place}: {error}"
    if len(found) < 2:
        seen = f"only {next(iter(found))!r}" if found else f"none ({problem})"
        raise DataError(f"the labels in column {columns.label!r} are {seen}; there must be two or more")
    numbers = all(name.isdecimal() for name in found)
    return sorted(found, key=lambda name: (int(name), name) if numbers else (0, name))


def labelled(
    rows: Iterable[Row],
    tokenizer: "ChatGLMTokenizer",
    max_length: int,
    report: Report,
    columns: LabelColumns,
    names: Sequence[str],
) -> Iterator[Example]:
    """The texts as `tokenizer(text)` gives them, cut at `max_length` tokens, each with the number of its label."""
    numbers = {name: number for number, name in enumerate(names)}
    for row in rows:
        try:
            text, label = _read(row, columns)
            if label not in numbers:
                raise DataError(f"its label is {label!r}; those of the rows to learn are {', '.join(names):.200}")
        except DataError as error:
            report.bad.append((row.place, str(error)))
            continue
        report.add(Sample(text=text, unused=tuple(sorted(set(row.value) - {columns.text, columns.label}))))
        ids = tokenizer(text)["input_ids"]
        if len(ids) > max_length:
            report.cut.append((row.place, len(ids)))
        yield Example(ids[:max_length], [False] * min(len(ids), max_length), numbers[label])


def _read(row: Row, columns: LabelColumns) -> tuple[str, str]:
    value: Any = row.value
    if row.problem is not None:
        raise DataError(row.problem)
    if not isinstance(value, Mapping):
        raise DataError(f"it is {value!r:.80}; a row must be an object")
    for name in (columns.text, columns.label):
        if name not in value:
            raise DataError(f"it has no {name!r}; its keys are {', '.join(map(str, value)) or 'none'}")
    text, label = value[columns.text], value[columns.label]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"its text is {text!r:.80}; it must be a text that is not empty")
    if isinstance(label, bool) or not isinstance(label, (str, int)) or not str(label).strip():
        raise DataError(f"its label is {label!r:.80}; it must be a word or a whole number")
    return text, str(label).strip()
