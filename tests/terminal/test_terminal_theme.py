"""Colours: which theme is worn, and what a theme changes."""

import io
import re

import pytest
from scripted import chat

from chatglm.errors import UsageError
from chatglm.terminal.markdown import Drawing
from chatglm.terminal.theme import THEMES, theme_of

TEXT = "Some `code` and\n\n```python\nif x: pass\n```\n\n[link](http://a.example)\n"


def drawn(theme):
    stream = io.StringIO()
    drawing = Drawing(stream, theme=THEMES[theme], width=60)
    drawing.text(TEXT)
    drawing.end()
    drawing.code("tool", "f(x=1)", "python")
    drawing.result("tool", "done")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("named", "no_color", "environment", "theme"),
    [
        (None, False, {}, "dark"),
        (None, False, {"COLORFGBG": "0;15"}, "light"),
        (None, False, {"COLORFGBG": "0;default;7"}, "light"),
        (None, False, {"COLORFGBG": "15;0"}, "dark"),
        (None, False, {"NO_COLOR": "1", "COLORFGBG": "0;15"}, "none"),
        (None, False, {"NO_COLOR": ""}, "dark"),
        (None, False, {"TERM": "dumb"}, "none"),
        (None, True, {}, "none"),
        ("light", False, {"NO_COLOR": "1"}, "light"),  # who asks for colours gets them
        ("none", True, {}, "none"),
    ],
)
def test_which_theme_is_worn(named, no_color, environment, theme):
    assert theme_of(named, no_color, environment).name == theme


def test_no_theme_is_worn_that_there_is_not_or_that_contradicts():
    with pytest.raises(UsageError, match="there is no theme 'pink'; there are dark, light, none"):
        theme_of("pink")
    with pytest.raises(UsageError, match="leave one out"):
        theme_of("dark", no_color=True)


def test_a_theme_changes_colours_and_nothing_else(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    colour = re.compile(r"\x1b\[[0-9;]*m")
    dark, light, none = map(drawn, ("dark", "light", "none"))
    assert dark != light
    assert colour.sub("", dark) == colour.sub("", light) == colour.sub("", none)
    assert "\x1b[1;36;40m" in dark  # bright letters before black, which a light window does not have
    assert ";40m" not in light
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", none)


def test_the_theme_is_changed_in_the_midst_of_a_conversation():
    program = chat("hello")
    program.handle("/theme")
    program.handle("/theme light")
    program.handle("/theme pink")
    told = program.screen.stream.getvalue()
    assert "The theme is none; there are dark, light, none." in told
    assert "The theme is light" in told
    assert "there is no theme 'pink'" in told
    assert program.screen.color
