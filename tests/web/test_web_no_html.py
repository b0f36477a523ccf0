"""No text, whole or growing, leaves HTML that a page would draw; and ordinary text reads as it was written."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from web.injections import PAYLOADS

from chatglm.web.no_html import fenced, literal, no_html

OURS = re.compile(r"</?code>")


def html_in(text):
    """What another program, which keeps HTML, finds in the Markdown: tags that are not its own."""
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).parse(text):
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
    assert html_in(no_html(text)) == []


@pytest.mark.parametrize("text", [*PAYLOADS, "\n\n".join(PAYLOADS)], ids=str.split)
def test_every_injection_is_harmless_at_every_moment(text):
    for end in range(0, len(text) + 1, 1 + len(text) // 300):
        assert html_in(no_html(text[:end])) == []


@given(PIECES)
def test_pictures_are_not_fetched_and_languages_not_drawn(text):
    shown = no_html(text)
    outside = [token for token in MarkdownIt("commonmark").parse(shown) if token.type == "inline"]
    assert not any(child.type == "image" for token in outside for child in token.children)
    infos = [token.info for token in MarkdownIt("commonmark").parse(shown) if token.type == "fence"]
    assert not any(info.startswith("mermaid") for info in infos)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint('<b>')\n```",
        "before\n\n````\n```\n<a>\n````\n\nafter",
        "A sentence with **stars** and $a > b$.",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "1. one\n2. two\n",
        "",
    ],
)
def test_ordinary_text_and_fences_stay_as_they_are(text):
    assert no_html(text) == text


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
    [fence] = [token for token in MarkdownIt("commonmark").parse(no_html(text)) if token.type == "fence"]
    assert (fence.info, fence.content) == ("c", "<a>\n")


def shown_text(text):
    return re.sub(r"<[^>]*>", "", MarkdownIt("commonmark", {"html": True}).render(no_html(text)))


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
    assert no_html("\x1b[31mred\x1b[0m\x07\r\nnext") == "[31mred[0m\nnext"
