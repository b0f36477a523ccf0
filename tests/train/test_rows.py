"""Files of rows: every kind gives the same rows, and what cannot be read is named by file and line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.errors import DataError
from chatglm.train.rows import _List, read_rows

ROWS = [{"prompt": f"问 {n}\nzwei", "response": 'a "quoted" word, ü', "history": [["q", "a"]] * n} for n in range(3)]


def write(folder: Path, suffix: str, rows: list[Any]) -> Path:
    file = folder / f"rows{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".json":
        file.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    elif suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "history": json.dumps(row["history"])} for row in rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    found = [row.value for row in read_rows(write(tmp_path, suffix, ROWS))]
    if suffix == ".csv":
        found = [{**row, "history": json.loads(row["history"])} for row in found]
    assert found == ROWS


VALUES = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]), st.integers(1, 9))
def test_a_list_is_read_item_by_item_however_it_is_cut(values: list[Any], indent: int | None, chunk: int) -> None:
    import io

    from chatglm.train import rows

    text = json.dumps(values, indent=indent)
    before, rows._CHUNK = rows._CHUNK, chunk
    try:
        found = list(_List(Path("rows.json"), io.StringIO(text)).rows())
    finally:
        rows._CHUNK = before
    assert [row.value for row in found] == values
    lines = text.split("\n")
    assert all(row.value == values[0] or indent is None or lines[row.number - 1].startswith(" ") for row in found)


def test_texts_are_divided_by_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n", encoding="utf-8")
    assert [(row.number, row.value["text"]) for row in read_rows(tmp_path)] == [(1, "one\ntwo"), (5, "three")]


def test_what_cannot_be_read_is_a_row_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": \n\n{"text": "\xff"}\n{"text": "b"}\n')
    rows = list(read_rows(file))
    assert [(row.number, row.problem is None) for row in rows] == [(1, True), (2, False), (4, False), (5, True)]
    assert rows[1].place == f"{file}, line 2"
    assert "not JSON" in str(rows[1].problem)
    assert "UTF-8" in str(rows[2].problem)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"a": 1}\n{"a": 2}]', "line 2: a comma"),
        ("a.json", '[{"a": 1},\n{"a": ', "begins on line 2"),
        ("a.json", '[{"a": 1},\n', "a ']' is missing"),
        ("a.parquet", "no parquet", "no parquet file"),
        ("a.docx", "", "must end in"),
    ],
)
def test_a_file_that_is_broken_is_told(name: str, content: str, message: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / name))


def test_a_folder_without_data_and_a_missing_file_are_told(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "no data file"), (tmp_path / "a.jsonl", "there is no data file")):
        with pytest.raises(DataError, match=message):
            list(read_rows(path))
