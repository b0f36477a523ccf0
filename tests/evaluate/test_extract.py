"""What is found in answers: golden tables, and laws of the extractors."""

import json
from typing import Any

import golden
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.evaluate.extract import EXTRACTORS
from chatglm.evaluate.item import Item


def item(*choices: str) -> Item:
    return Item("i", "s", "?", (), choices)


PIECES = "A B C D E 答案 是 选 answer is ( ) . 1 \\boxed{ } $ ``` def \n".split(" ")
ANIMALS, CITIES, COLOURS = (
    item("Dog", "Cat", "Sparrow", "Horse"),
    item("上海", "北京", "广州", "重庆"),
    item(*"蓝黄黑紫"),
)
PEOPLE, QUANTITIES = item("Ann", "Ben", "Cem", "Dan", "Eve"), item("质量", "速度", "温度", "力")
HARBOUR = Item("i", "s", "?", extra={"tools": [{"name": "find_boat"}, {"name": "tide_height"}]})
TABLES: list[tuple[str, Item, list[tuple[Any, ...]]]] = [
    ("number", item(), golden.GSM8K),
    ("formula", item(), golden.MATH),
    ("stated", item(), golden.BBH),
    ("letter", ANIMALS, golden.MMLU),
    ("letter", CITIES, golden.CEVAL),
    ("first letter", COLOURS, golden.CMMLU_FIRST),
    ("letter", COLOURS, golden.CMMLU),
    ("letters", QUANTITIES, golden.AGIEVAL_SEVERAL),
    ("letter", PEOPLE, golden.AGIEVAL),
    ("code", item(), golden.MBPP),
    ("whole", item(), [(text, whole) for text, whole, _ in golden.LONGBENCH]),
    ("first line", item(), [(text, line) for text, _, line in golden.LONGBENCH]),
    ("calls", HARBOUR, [(text, json.dumps(calls, ensure_ascii=False, sort_keys=True)) for text, calls in golden.BFCL]),
]


@pytest.mark.parametrize(("name", "one", "table"), TABLES)
def test_golden(name: str, one: Item, table: list[tuple[str, str | None]]) -> None:
    found = [(text, EXTRACTORS[name](text, one)) for text, _ in table]
    assert found == table


@pytest.mark.parametrize("name", EXTRACTORS)
def test_no_extractor_is_slow(name: str) -> None:
    """Whatever patterns they use: such texts would take some for hours."""
    for piece in (
        " ",
        "\n",
        "\t",
        "是",
        "选",
        "答案是 ",
        "answer is ",
        "(",
        "A ",
        "A,",
        "$",
        "{",
        "1,",
        "-",
        "`",
        "```\n",
        "=",
        "**",
    ):
        EXTRACTORS[name]("The answer is " + piece * 4000, ANIMALS)


def test_every_task_has_forty() -> None:
    sizes = {
        "gsm8k": golden.GSM8K, "math": golden.MATH, "bbh": golden.BBH, "mmlu": golden.MMLU, "ceval": golden.CEVAL,
        "cmmlu": golden.CMMLU + golden.CMMLU_FIRST, "agieval": golden.AGIEVAL + golden.AGIEVAL_SEVERAL,
        "mbpp": golden.MBPP, "longbench": golden.LONGBENCH, "bfcl": golden.BFCL,
    }  # fmt: skip
    assert {name: len(table) for name, table in sizes.items() if len(table) < 40} == {}


@pytest.mark.parametrize("name", EXTRACTORS)
@settings(max_examples=40)
@given(text=st.text(max_size=80) | st.lists(st.sampled_from(PIECES)).map("".join))
def test_whatever_is_written_an_extractor_gives_a_text_or_none(name: str, text: str) -> None:
    found = EXTRACTORS[name](text, ANIMALS)
    assert found is None or (isinstance(found, str) and found)
    if found is not None and name in ("letter", "first letter"):
        assert found in ANIMALS.letters
