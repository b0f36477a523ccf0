"""What a data file holds, in words: counts, lengths, and some samples as the model reads them."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chatglm.train.encoding import Example, Report
from chatglm.train.sources import Kind, labels_in, read_examples
from chatglm.words import Words

if TYPE_CHECKING:
    from chatglm.model.tokenizer import ChatGLMTokenizer

_SHOWN = 600  # characters of a part of a sample
_NAMED = 5  # long rows that are named
_GREEN, _DIM, _PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[0m"


def check(
    path: str,
    tokenizer: "ChatGLMTokenizer",
    max_length: int,
    words: Words,
    columns: str | None = None,
    samples: int = 3,
    color: bool = False,
    kind: Kind = "answers",
) -> tuple[str, bool]:
    """The report on a file or folder, and whether every row is good.

    What is learned is green; without color it stands between `[[` and `]]`. A label stands behind its text. Of a pair
    both answers are samples.

    Raises:
        DataError: the file cannot be read at all.
    """
    report = Report()
    lengths: list[int] = []
    shown: list[str] = []
    learned = 0
    labels = labels_in(path, kind, columns)
    given: Counter[str] = Counter()
    for example in read_examples(path, tokenizer, max_length, report, columns, kind, labels):
        lengths.append(len(example.ids))
        learned += sum(example.learned)
        label = None if example.label is None else labels[example.label]
        given.update(() if label is None else (label,))
        if len(shown) < samples:
            shown.append(show(example, tokenizer, color) + ("" if label is None else f" -> {label}"))
    lines = [words("data_rows", rows=report.rows, kinds=_counts(report.kinds) or "-", bad=len(report.bad))]
    if lengths:
        lines.append(words("data_lengths", total=sum(lengths), learned=learned, **_spread(lengths)))
    if given:
        lines.append(words("data_labels", labels=_counts(given)))
    lines += warnings(report, max_length, words)
    if report.bad:
        lines += [words("data_bad"), report.problems()]
    lines += [f"\n{words('data_sample', number=number)}\n{text}" for number, text in enumerate(shown, 1)]
    return "\n".join(lines) + "\n", bool(report.rows) and not report.bad


def warnings(report: Report, max_length: int, words: Words) -> list[str]:
    """What was met that is no error: rows that were cut, keys that say nothing here."""
    lines = []
    if report.cut:
        named = ", ".join(f"{place} ({length})" for place, length in report.cut[:_NAMED])
        more = " ..." if len(report.cut) > _NAMED else ""
        lines.append(words("data_cut", count=len(report.cut), limit=max_length, named=named + more))
    if report.unused:
        lines.append(words("data_unused", keys=_counts(report.unused)))
    return lines


def show(example: Example, tokenizer: "ChatGLMTokenizer", color: bool) -> str:
    """A sample as the model reads it, with what is learned marked."""
    first, last = (_GREEN, _PLAIN) if color else ("[[", "]]")
    parts, start = [], 0
    while start < len(example.ids):
        end = start
        while end < len(example.ids) and example.learned[end] == example.learned[start]:
            end += 1
        text = _shortened(str(tokenizer.decode(example.ids[start:end], skip_special_tokens=False)))
        parts.append(f"{first}{text}{last}" if example.learned[start] else f"{_DIM}{text}{_PLAIN}" if color else text)
        start = end
    return "".join(parts)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} [...] {text[-_SHOWN // 2 :]}"


def _counts(counter: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items(), key=lambda one: -one[1]))


def _spread(lengths: Sequence[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    at = {name: ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for name, share in _SHARES.items()}
    return {"least": ordered[0], "most": ordered[-1], **at}


_SHARES = {"half": 50, "ninety": 90, "ninety_nine": 99}
