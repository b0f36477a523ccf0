"""The text of an HTML page, with the standard library's parser: no scripts, no styles, one line per block."""

import re
from html.parser import HTMLParser

_HIDDEN = frozenset("script style noscript template svg math iframe object head".split())
_BLOCKS = frozenset(
    "p div br hr li ul ol dl dt dd tr table section article header footer nav aside main blockquote pre form "
    "h1 h2 h3 h4 h5 h6 figure figcaption option".split()
)
_VOID = frozenset("br hr img input meta link area base col embed source track wbr".split())
_MAX_UNCLOSED = 5000  # characters at the end of a page in a tag that never ends
_MAX_HIDDEN = 100  # tags inside each other
_ANY_TAG = re.compile("<[^<>]*>?")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self.hidden: list[str] = []
        self.in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_title = tag == "title"
        if tag in _HIDDEN and tag not in _VOID and len(self.hidden) < _MAX_HIDDEN:
            self.hidden.append(tag)
        if tag in _BLOCKS:
            self.parts.append("\n")
        if tag == "li":
            self.parts.append("- ")
        if tag in ("td", "th"):
            self.parts.append(" ")
        if tag == "body":
            self.hidden.clear()  # the head may be left open

    def handle_endtag(self, tag: str) -> None:
        self.in_title = False
        if tag in self.hidden:
            del self.hidden[self.hidden.index(tag) :]
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self.in_title:
            self.title.append(data)
        elif not self.hidden:
            self.parts.append(data)


def html_text(html: str) -> str:
    """The text of a page, its title first. Nothing raises, whatever the page."""
    reader = _Reader()
    reader.feed(html)
    if len(reader.rawdata) > _MAX_UNCLOSED:  # the parser's time for it would be the square of its length
        reader.handle_data(_ANY_TAG.sub(" ", reader.rawdata))
    else:
        reader.close()
    lines = [" ".join(line.split()) for line in "".join(reader.parts).split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    title = " ".join("".join(reader.title).split())
    return f"{title}\n\n{text}".strip() if title else text
