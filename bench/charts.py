"""Two charts as SVG, small enough to be written by hand: nothing of a plotting library would be left in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LABEL, _RIGHT, _BAR, _GAP, _TOP = 860, 200, 120, 16, 8, 40
_REACHED, _SHORT, _MARK = "#3b7a57", "#b5533c", "#444444"
_COLOURS = ("#3b6ea5", "#7fa650", "#d2a03d", "#8a6d9c")
# A bar that goes beyond ends here, and says so by its number.
_MOST = 3.0


@dataclass(frozen=True)
class Bar:
    """How far a figure is beyond what it must reach: 1 is just reached. `aim` on the same scale."""

    label: str
    reach: float
    aim: float | None
    text: str


def reaches(bars: Sequence[Bar]) -> str:
    """Horizontal bars, a line at 1, and a mark at each aim."""
    scale: float = (_WIDTH - _LABEL - _RIGHT) / _MOST
    parts = [_text(_LABEL + scale, _TOP - 10, "must reach", "middle")]
    for place, bar in enumerate(bars):
        top = _TOP + place * (_BAR + _GAP)
        width: float = min(bar.reach, _MOST) * scale
        parts.append(_text(_LABEL - 8, top + _BAR - 4, bar.label, "end"))
        parts.append(_box(_LABEL, top, width, _REACHED if bar.reach >= 1 else _SHORT))
        if bar.aim is not None and bar.aim <= _MOST:
            parts.append(_line(_LABEL + bar.aim * scale, top - 2, top + _BAR + 2, 2))
        parts.append(_text(_LABEL + max(width, scale) + 8, top + _BAR - 4, bar.text, "start"))
    height = _TOP + len(bars) * (_BAR + _GAP)
    parts.append(_line(_LABEL + scale, _TOP - 6, height, 1))
    return _svg(height + 8, parts)


def stacks(rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Horizontal bars, each of several parts; the same parts in each."""
    parts, names = [], list(next(iter(rows.values()), {}))
    most = max((sum(row.values()) for row in rows.values()), default=1.0)
    scale = (_WIDTH - _LABEL - _RIGHT) / most
    for place, name in enumerate(names):
        key = _LABEL + place * 110
        parts += [_box(key, 12, 12, _COLOURS[place], 12), _text(key + 18, 23, name, "start")]
    for place, (label, row) in enumerate(rows.items()):
        top, left = _TOP + place * (_BAR + _GAP), float(_LABEL)
        parts.append(_text(_LABEL - 8, top + _BAR - 4, label, "end"))
        for name, colour in zip(names, _COLOURS, strict=False):
            parts.append(_box(left, top, row[name] * scale, colour))
            left += row[name] * scale
        parts.append(_text(left + 8, top + _BAR - 4, f"{sum(row.values()):,.0f} {unit}", "start"))
    return _svg(_TOP + len(rows) * (_BAR + _GAP) + 8, parts)


def _svg(height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        'font-family="sans-serif" font-size="12" fill="#222222">'
    )
    background = f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    return "\n".join([head, background, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, colour: str, height: float = _BAR) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.0f}" fill="{colour}"/>'


def _line(x: float, top: float, bottom: float, width: int) -> str:
    return f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{_MARK}" stroke-width="{width}"/>'
