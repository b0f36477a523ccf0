"""Uploaded tables: a CSV file, what is asked about it, and the cells that find it out."""

import random
from dataclasses import dataclass

from chatglm.chat.message import FILES_FOLDER
from chatglm.demo import pools
from chatglm.demo.text import Split
from chatglm.demo.wording import read_sections, rows

COLUMNS = rows(read_sections("tables")["columns"])  # English, Chinese
_KINDS = ("table_rows", "table_columns", "table_mean", "table_total", "table_largest", "table_smallest", "table_first")
_EXPRESSIONS = {
    "table_rows": "len(data)",
    "table_columns": "list(data.columns)",
    "table_mean": 'round(data["{column}"].mean(), 2)',
    "table_total": 'data["{column}"].sum()',
    "table_largest": 'data["{column}"].max()',
    "table_smallest": 'data["{column}"].min()',
    "table_first": 'data["{key}"][0]',
}
_GUESSED_SHARE = 0.25  # of questions that name a column otherwise than the file does


@dataclass(frozen=True)
class Table:
    """A file and a question about it.

    Attributes:
        cells: code, what it prints, and whether it fails; of one that fails, the name of the column it looked for.
    """

    kind: str
    name: str
    content: bytes
    cells: tuple[tuple[str, str, bool], ...]
    slots: dict[str, object]
    drawn: tuple[str, ...]


def make_table(english: bool, split: Split, rng: random.Random) -> Table:
    """A table of random rows with a name and one or two columns of numbers."""
    row = rng.choice(COLUMNS)
    key, *others = (column.split("/")[0 if english else 1] for column in row)
    columns = others[: rng.choice((1, 2))]
    count = rng.randint(2, 12)
    names = [(pools.english_name if english else pools.chinese_name)(split, rng) for _ in range(count)]
    numbers = [[pools.number(split, rng, 1, rng.choice((99, 900))) for _ in columns] for _ in range(count)]
    lines = [",".join((key, *columns))]
    lines += [",".join((name, *map(str, values))) for name, values in zip(names, numbers, strict=True)]
    index = rng.randrange(len(columns))
    values = [line[index] for line in numbers]
    column = columns[index]
    kind = rng.choice(_KINDS)
    output = str(
        {
            "table_rows": count,
            "table_columns": [key, *columns],
            "table_mean": round(sum(values) / count, 2),
            "table_total": sum(values),
            "table_largest": max(values),
            "table_smallest": min(values),
            "table_first": names[0],
        }[kind]
    )
    file = f"{pools.english_word(split, rng)}.csv"
    begin = f'import pandas as pd\ndata = pd.read_csv("{FILES_FOLDER}/{file}")\n'
    code = f"print({_EXPRESSIONS[kind].format(column=column, key=key)})"
    cells: tuple[tuple[str, str, bool], ...] = ((begin + code, output, False),)
    asked_column = column
    if "{column}" in _EXPRESSIONS[kind] and rng.random() < _GUESSED_SHARE:
        asked_column = column.upper() if english else f"{column}数据"
        guessed = f"print({_EXPRESSIONS[kind].format(column=asked_column)})"
        cells = (
            (begin + guessed, asked_column, True),
            ("print(list(data.columns))", str([key, *columns]), False),
            (code, output, False),
        )
    content = ("\n".join(lines) + "\n").encode()
    drawn = tuple(str(value) for line in numbers for value in line if value > 99)
    return Table(kind, file, content, cells, {"column": asked_column, "key": key, "file": file}, drawn)


def key_error(code: str, cell: int, column: str) -> str:
    """How the product tells that a table has no such column, without the lines of the library in between."""
    line = code.count("\n") + 1
    last = code.rsplit("\n", 1)[-1]
    return f"Traceback (most recent call last):\n\n  Cell In[{cell}], line {line}\n    {last}\n\nKeyError: '{column}'"
