"""No text, whole or growing, leaves HTML that a page would draw; and ordinary text reads as it was written."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from web.injections import PAYLOADS

from chatglm.web.no_html import fenced, literal, marked_text, no_html, plain, unmarked

OURS = re.compile(r"</?code>")


def tokens_of(pieces):
    return [token for piece in pieces for token in MarkdownIt("commonmark", {"html": True}).parse(piece)]


def html_in(*pieces):
    """What another program, which keeps HTML, finds in the Markdown: tags that are not its own."""
    found = []
    for token in tokens_of(pieces):
        for each in [token, *(token.children or ())]:
            if each.type in ("html_block", "html_inline") and not OURS.fullmatch(each.content):
                found.append(each.content)
    return found


PIECES = st.lists(
    st.sampled_from(
        ["```", "~~~", "`", "``", "\n", "\n\n", " ", "    ", "> ", "- ", "<b>", "<div style='x'>", "</", "$$", "\\[",
         "\\", "\r", "\u2028", "a", "|", "mermaid", "http://x", "![", "](", "<!--", "&lt;", "\t", "#"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@given(PIECES)
def test_no_reading_of_markdown_finds_html(text):
    assert html_in(*no_html(text), marked_text(text)) == []


@pytest.mark.parametrize("text", [*PAYLOADS, "\n\n".join(PAYLOADS)], ids=str.split)
def test_every_injection_is_harmless_at_every_moment(text):
    for end in range(0, len(text) + 1, 1 + len(text) // 300):
        assert html_in(*no_html(text[:end]), marked_text(text[:end])) == []


@given(PIECES)
@example("```mermaid- ")
def test_pictures_are_not_fetched_and_languages_not_drawn(text):
    shown = tokens_of([*no_html(text), marked_text(text)])
    assert not any(child.type == "image" for token in shown for child in token.children or ())
    assert not any(token.info.strip().startswith("mermaid") for token in shown if token.type == "fence")


@given(st.text())
def test_what_was_typed_is_shown_so_and_can_be_edited(text):
    assert unmarked(marked_text(text)) == unmarked(plain(text))
    assert not re.search(r"<[^\u2060]", marked_text(text))


@given(PIECES)
def test_a_fence_is_a_piece_of_its_own(text):
    for piece in no_html(text):
        kinds = [token.type for token in tokens_of([piece])]
        assert kinds == ["fence"] or "fence" not in kinds


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("```python\nprint('<b>')\n```", 1),
        ("before\n````\n```\n<a>\n````\nafter", 3),
        ("A sentence with **stars** and $a > b$.", 1),
        ("| a | b |\n|---|---|\n| 1 | 2 |", 1),
        ("1. one\n2. two\n", 1),
        ("", 0),
    ],
)
def test_ordinary_text_and_fences_stay_as_they_are(text, pieces):
    assert "\n".join(no_html(text)) == text
    assert len(no_html(text)) == pieces


@pytest.mark.parametrize(
    "text",
    [
        "~~~c\n<a>\n~~~",
        "text\n```c\n<a>\n```\ntext",
        "1. one\n   ```c\n   <a>\n   ```\n2. two",
        "```c\n<a>",
        "```c\n<a>\n`````",
    ],
)
def test_every_way_to_write_a_fence_shows_its_code(text):
    [fence] = [token for token in tokens_of(no_html(text)) if token.type == "fence"]
    assert (fence.info, fence.content) == ("c", "<a>\n")


def shown_text(text):
    return re.sub(r"<[^>]*>", "", MarkdownIt("commonmark", {"html": True}).render("\n\n".join(no_html(text))))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("List<String> x", "List&lt;String&gt; x"),
        ("use `List<int>` here", "use List&lt;int&gt; here"),
        ("``a ` b``", "a ` b"),
        ("`*not bold*`", "*not bold*"),
        ("1 < 2", "1 &lt; 2"),
    ],
)
def test_code_and_comparisons_read_as_they_were_written(text, read):
    from html import unescape

    assert unescape(shown_text(text)).strip() == unescape(read)


@given(st.text(alphabet="`~<>a \n$|\\", max_size=60))
def test_a_fence_of_ours_cannot_be_left(text):
    tokens = MarkdownIt("commonmark", {"html": True}).parse(fenced(text))
    assert [token.type for token in tokens] == ["fence"]


@given(st.text(max_size=40))
def test_a_name_is_shown_to_the_character(name):
    assert html_in(literal(name)) == []
    assert not re.search(r"[*_`<\[\]!]", literal(name))


def test_control_characters_are_gone():
    assert no_html("\x1b[31mred\x1b[0m\x07\r\nnext") == ["[31mred[0m\nnext"]
