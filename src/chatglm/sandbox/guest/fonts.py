"""Matplotlib draws Chinese labels if any font here can: DejaVu, its own font, has no such letters."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

_MODULE = "matplotlib.font_manager"
# Families with Chinese letters, the best first.
FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Noto Sans CJK JP",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "SimHei", "Hiragino Sans GB",
    "Droid Sans Fallback", "LXGW WenKai", "Noto Serif CJK SC", "Noto Serif CJK JP", "Source Han Serif SC",
    "AR PL UMing CN", "AR PL UKai CN", "SimSun", "Arial Unicode MS",
)  # fmt: skip


def chinese_font(installed: Iterable[str]) -> str | None:
    """The best of the installed families that has Chinese letters."""
    names = set(installed)
    return next((family for family in FAMILIES if family in names), None)


class FontFinder(importlib.abc.MetaPathFinder):
    """Adds a Chinese font behind the default one at the moment matplotlib has listed the fonts, and not before.

    The list is made when matplotlib is imported; looking for fonts ourselves would cost every cell that draws nothing.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def with_font(module: ModuleType) -> None:
                execute(module)
                _add_font(module)

            spec.loader.exec_module = with_font  # type: ignore[method-assign]  # this loader serves this module only
        return spec


def _add_font(font_manager: Any) -> None:
    family = chinese_font(entry.name for entry in font_manager.fontManager.ttflist)
    matplotlib = sys.modules.get("matplotlib")
    if family is None or matplotlib is None:
        return
    for settings in (matplotlib.rcParams, matplotlib.rcParamsDefault):
        # Two concrete names: only then is the second asked for letters the first does not have.
        settings["font.family"] = ["DejaVu Sans", family]
