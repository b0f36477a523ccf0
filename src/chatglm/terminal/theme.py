"""The colours of the terminal: a theme for dark windows, one for light ones, and none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from chatglm.errors import UsageError


@dataclass(frozen=True)
class Theme:
    """Colours, as rich names them.

    Attributes:
        name: what it is called.
        code: how code is coloured.
        call, result: frames of calls and of what came of them.
        styles: of rich, that are other than its own, which are made for dark windows.
    """

    name: str
    code: str = "ansi_dark"
    call: str = "cyan"
    result: str = "bright_black"
    styles: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_color(self) -> bool:
        return self.name != "none"


_LIGHT = {
    "markdown.code": "bold blue",
    "markdown.code_block": "blue",
    "markdown.item.number": "blue",
    "markdown.list": "blue",
    "markdown.link": "blue",
    "markdown.table.border": "blue",
    "markdown.table.header": "not bold blue",
}
THEMES = {
    "dark": Theme("dark"),
    "light": Theme("light", "ansi_light", "blue", "black", _LIGHT),
    "none": Theme("none"),
}


def theme_of(named: str | None, no_color: bool = False, environment: Mapping[str, str] = os.environ) -> Theme:
    """The theme that was named; else none where the environment wants no colours (NO_COLOR), else that of the window.

    Args:
        named: of `THEMES`.
        no_color: whether an option wants none.

    Raises:
        UsageError: there is no such theme; or one with colours and none are wanted.
    """
    if named is not None and named not in THEMES:
        raise UsageError(f"there is no theme {named!r}; there are {', '.join(THEMES)}")
    if no_color and named not in (None, "none"):
        raise UsageError(f"--theme {named} has colours, and --no-color wants none; leave one out")
    if named is not None:
        return THEMES[named]
    if no_color or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return THEMES["none"]
    # What terminals tell of themselves, where they do: the colours of letters and of what is behind them.
    behind = environment.get("COLORFGBG", "").rpartition(";")[2]
    return THEMES["light" if behind in ("7", "15") else "dark"]
