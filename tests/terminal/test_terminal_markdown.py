"""Markdown while it is written: the same blocks however it comes, drawn once, never wider than the window."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from chatglm.terminal.markdown import Blocks, Drawing, wrapped
from chatglm.terminal.theme import THEMES
from chatglm.words import SENTENCES, Words

PIECES = [
    "word ",
    "中文，",
    "\n",
    "\n\n",
    "```",
    "```python\n",
    "~~~\n",
    "- item\n",
    "| a | b |\n|---|---|\n",
    "<b>x</b> ",
    "**",
]
TEXTS = st.lists(st.sampled_from(PIECES)).map("".join)
STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def blocks_of(text: str, size: int) -> list[str]:
    blocks = Blocks()
    found = [block for at in range(0, len(text), size) for block in blocks.feed(text[at : at + size])]
    return [*found, *([last] if (last := blocks.flush()) else [])]


def drawn(text: str, size: int = 4, **options: object) -> str:
    stream = io.StringIO()
    drawing = Drawing(stream, **{"width": 60, "theme": THEMES["none"], **options})
    for at in range(0, len(text), size):
        drawing.text(text[at : at + size])
    drawing.end()
    return stream.getvalue()


def shown(output: str) -> str:
    """What stands on the terminal in the end: lines that were written over are gone."""
    return "\n".join(STEERING.sub("", line.rpartition("\r\x1b[K")[2]).rstrip() for line in output.split("\n"))


@given(TEXTS, st.integers(1, 9))
def test_blocks_do_not_depend_on_how_the_text_comes(text: str, size: int) -> None:
    whole = blocks_of(text, max(1, len(text)))
    assert blocks_of(text, size) == whole
    assert [line for block in whole for line in block.split("\n") if line.strip()] == [
        line for line in text.split("\n") if line.strip()
    ]


@given(TEXTS)
def test_nothing_is_wider_than_the_window_and_what_ends_is_the_same(text: str) -> None:
    output = drawn(text)
    assert all(cell_len(line) <= 60 for line in shown(output).split("\n"))
    assert shown(output) == shown(drawn(text, size=1))


def test_headings_lists_tables_code_and_what_looks_like_html() -> None:
    text = (
        "# 标题\n\nuse `List<int>` or List<int> <b>x</b>\nsecond line\n\n- a\n- b\n\n```python\nprint( 1 )\n\nx\n```\n"
        "| n | 值 |\n|---|---|\n| 1 | 二 |\n"
    )
    lines = [line.strip() for line in shown(drawn(text)).split("\n") if line.strip()]
    assert lines == [
        "标题", "use List<int> or List<int> <b>x</b>", "second line", "• a", "• b", "print( 1 )", "x",
        "n  值", "─────", "1  二",
    ]  # fmt: skip


def test_what_is_written_grows_with_the_text_and_not_with_its_square() -> None:
    paragraph = "some words of an answer that goes on and on. " * 4
    short, long = (len(drawn((paragraph + "\n\n") * times)) for times in (10, 40))
    assert long < 4.5 * short


def test_the_line_being_written_is_seen_at_once_and_gone_afterwards() -> None:
    stream = io.StringIO()
    drawing = Drawing(stream, width=40)
    drawing.text("half a sent")
    assert stream.getvalue() == "\x1b[2mhalf a sent\x1b[0m"
    drawing.end()
    assert shown(stream.getvalue()).strip() == "half a sent"


def test_code_and_results_stand_in_frames() -> None:
    stream = io.StringIO()
    drawing = Drawing(stream, width=40, theme=THEMES["none"])
    drawing.writing("print(")
    drawing.code("interpreter", "print('[bold]')", "python")
    drawing.result("interpreter: ok", "[bold]\n中文")
    lines = shown(stream.getvalue()).split("\n")
    assert [line.strip("│ ") for line in lines if line.startswith("│")] == ["print('[bold]')", "[bold]", "中文"]
    assert all(cell_len(line) == 40 for line in lines if line.strip())


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_sentence_is_cut_at_the_edge(language: str, width: int) -> None:
    words = Words(language)  # type: ignore[arg-type]
    for name in ("help", "ready", "too_long", "unknown", "may_cut"):
        places = dict.fromkeys(re.findall(r"{(\w+)}", SENTENCES[name][0]), "something")
        sentence = words(name, **places)
        broken = wrapped(sentence, width)
        assert all(cell_len(line) <= width for line in broken.split("\n"))
        assert "".join(broken.split()) == "".join(sentence.split())
        assert language == "zh" or {*sentence.split()} >= {word for word in broken.split() if len(word) < width // 2}
