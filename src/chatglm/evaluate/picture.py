"""Pictures of a report as SVG: bars beside the published scores, and the heat map of the needle."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_OWN, _OTHERS = "#1f6feb", ("#c9d1d9", "#8b949e", "#57606a")
_ROW, _LEFT, _WIDTH, _CELL = 16, 170, 460, 46
_FONT = 'font-family="sans-serif" font-size="12" fill="#1f2328"'


def bars(report: Mapping[str, Any]) -> str:
    """A group of bars for each task: this run with its interval, and what was reported for others."""
    parts: list[str] = []
    y = 30
    for task in report["tasks"]:
        if "score" not in task:
            continue
        parts.append(_text(8, y, f"{task['title']}, {task['protocol']}", bold=True))
        y += 6
        rows = [("this run", task["score"], _OWN)]
        rows += [(model, score, _OTHERS[i % 3]) for i, (model, score) in enumerate(task["published"].items())]
        for name, score, colour in rows:
            parts.append(_text(_LEFT - 8, y + _ROW - 4, name, end=True))
            parts.append(f'<rect x="{_LEFT}" y="{y + 2}" width="{_x(score)}" height="{_ROW - 4}" fill="{colour}"/>')
            parts.append(
                _text(_LEFT + _x(max(score, task["high"] if colour == _OWN else 0)) + 6, y + _ROW - 4, f"{score:.1f}")
            )
            if colour == _OWN:
                parts.append(_whisker(y + _ROW / 2, task["low"], task["high"]))
            y += _ROW
        y += 24
    note = "others: reported, protocol unpublished" if any(task["published"] for task in report["tasks"]) else ""
    parts.append(_text(8, y, note))
    return _svg(_LEFT + _WIDTH + 60, y + 12, parts)


def heat_map(cells: Sequence[Mapping[str, Any]]) -> str:
    """Where the needle was found: lengths across, depths down, in percent."""
    lengths = sorted({cell["length"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    parts = [_text(8, 20, "needle found, %: tokens of the text across, depth in % down", bold=True)]
    for column, length in enumerate(lengths):
        parts.append(_text(60 + column * _CELL, 44, f"{length // 1024}K" if length % 1024 == 0 else str(length)))
    for row, depth in enumerate(depths):
        parts.append(_text(44, 70 + row * 28, str(depth), end=True))
    for cell in cells:
        x, y = 54 + lengths.index(cell["length"]) * _CELL, 52 + depths.index(cell["depth"]) * 28
        colour = f"hsl({1.2 * cell['score']:.0f} 60% 70%)"
        parts.append(f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="26" fill="{colour}"/>')
        parts.append(_text(x + 8, y + 18, f"{cell['score']:.0f}"))
    return _svg(max(440, 70 + len(lengths) * _CELL), 66 + len(depths) * 28, parts)


def _x(score: float) -> float:
    return round(_WIDTH * score / 100, 1)


def _whisker(y: float, low: float, high: float) -> str:
    begin, end = _LEFT + _x(low), _LEFT + _x(high)
    path = f"M{begin} {y - 4}V{y + 4}M{begin} {y}H{end}M{end} {y - 4}V{y + 4}"
    return f'<path d="{path}" stroke="#0a3069" fill="none"/>'


def _text(x: float, y: float, text: str, *, bold: bool = False, end: bool = False) -> str:
    weight, anchor = ' font-weight="bold"' if bold else "", ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}" {_FONT}{weight}{anchor}>{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join((f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', background, *parts, "</svg>")) + "\n"
