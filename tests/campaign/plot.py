"""Curves over time as one SVG, drawn by hand as docs/kernel-cost.svg is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _MARGIN = 520, 200, 48
_COLOURS = ("#1f5fa8", "#c0504d", "#6a9a3a")


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines of one unit over the same seconds."""

    title: str
    lines: dict[str, Sequence[float]]


def as_svg(seconds: Sequence[float], panels: Sequence[Panel], kills: Sequence[float]) -> str:
    """One panel below the other, a grey bar where something was killed."""
    drawn = "".join(_panel(seconds, panel, kills, row) for row, panel in enumerate(panels))
    height = len(panels) * _HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>{drawn}</svg>\n'
    )


def _panel(seconds: Sequence[float], panel: Panel, kills: Sequence[float], row: int) -> str:
    last = max(seconds[-1], 1e-9)
    top = max((value for line in panel.lines.values() for value in line), default=0.0) or 1.0

    def x(second: float) -> float:
        return _MARGIN + second / last * (_WIDTH - 2 * _MARGIN)

    def y(value: float) -> float:
        return _HEIGHT - 30 - value / top * (_HEIGHT - 70)

    out = [f'<text x="{_MARGIN}" y="18" font-size="13">{panel.title}</text>']
    for kill in kills:
        out.append(f'<line x1="{x(kill):.1f}" x2="{x(kill):.1f}" y1="{y(top):.1f}" y2="{y(0):.1f}" stroke="#ddd"/>')
    for value in (0.0, top / 2, top):
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        out.append(f'<text x="{_MARGIN - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#666">{shown}</text>')
        out.append(
            f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#eee"/>'
        )
    for second in (0.0, last / 2, last):
        out.append(
            f'<text x="{x(second):.1f}" y="{_HEIGHT - 12}" text-anchor="middle" fill="#666">{second:,.0f} s</text>'
        )
    for place, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        points = " ".join(f"{x(second):.1f},{y(value):.1f}" for second, value in zip(seconds, line, strict=True))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out.append(f'<text x="{_WIDTH - _MARGIN - 110 * place}" y="34" text-anchor="end" fill="{colour}">{name}</text>')
    return f'<g transform="translate(0,{row * _HEIGHT})">{"".join(out)}</g>'
