"""From a file to examples, by what is to be learned from it: answers, which of two is preferred, or labels."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from chatglm.train.encoding import Example, Report, examples
from chatglm.train.formats import Columns
from chatglm.train.labels import LabelColumns, label_names, labelled
from chatglm.train.pairs import PairColumns, pairs
from chatglm.train.rows import read_rows

if TYPE_CHECKING:
    from chatglm.model.tokenizer import ChatGLMTokenizer

Kind = Literal["answers", "pairs", "labels"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def labels_in(path: str, kind: Kind, columns: str | None = None) -> list[str]:
    """The labels of a file or folder, in order of their numbers; none where labels are not learned.

    Raises:
        DataError: fewer than two, or the file cannot be read.
    """
    return [] if kind != "labels" else label_names(read_rows(path), _label_columns(columns))


def read_examples(
    path: str,
    tokenizer: "ChatGLMTokenizer",
    max_length: int,
    report: Report,
    columns: str | None = None,
    kind: Kind = "answers",
    labels: Sequence[str] = (),
) -> Iterator[Example]:
    """The examples of a file or folder; what is met on the way is told in `report`. Those of a pair come in turn.

    Args:
        columns: names as the command line has them.
        labels: their names, for the kind "labels".

    Raises:
        DataError: names of columns that do not fit the kind, or a file that cannot be read.
    """
    rows = read_rows(path)
    if kind == "labels":
        return labelled(rows, tokenizer, max_length, report, _label_columns(columns), labels)
    if kind == "pairs":
        return pairs(rows, tokenizer, max_length, report, None if columns is None else PairColumns.parse(columns))
    return examples(rows, tokenizer, max_length, report, None if columns is None else Columns.parse(columns))


def _label_columns(columns: str | None) -> LabelColumns:
    return LabelColumns() if columns is None else LabelColumns.parse(columns)
