"""The two sides of `bench trade` as one SVG, drawn by hand as the kernel's curves are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

from featurestore.bench.trade import Trade

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 480, 320, 96, 36, 62, 100, 16
_BLUE, _RED, _GREY = "#1f5fa8", "#c0504d", "#666"
# A figure stays readable where its line runs through it.
_HALO = 'stroke="white" stroke-width="3" paint-order="stroke"'


@dataclass(frozen=True, slots=True)
class _Line:
    """One value a point; the name is written in the line's colour."""

    name: str
    values: Sequence[float]
    colour: str
    show: Callable[[float], str]


def as_svg(trade: Trade) -> str:
    """Throughput by the bound of a batch on the left, freshness by load on the right.

    Points stand side by side, a run each; what a point stands for is written below it. Throughput starts at zero,
    freshness is logarithmic. The ground is white, so that it can be read on a dark page too.
    """
    backlogs, loads = trade.backlogs, trade.loads
    rate = _Line("events/s", [one.events_a_second for one in backlogs], _BLUE, lambda value: f"{value / 1_000:,.0f}k")
    p50 = _Line("p50", [one.p50_ms for one in loads], _BLUE, lambda value: f"{value:,.0f} ms")
    p99 = _Line("p99", [one.p99_ms for one in loads], _RED, lambda value: f"{value:,.0f} ms")
    left = _panel(
        "backlog: throughput by bound of a batch",
        (rate,),
        {
            "records at most": [f"{one.batch_records_max:,}" for one in backlogs],
            "rows an event": [f"{one.rows_an_event:.2f}" for one in backlogs],
        },
        is_log=False,
    )
    right = _panel(
        "steady load: freshness, acknowledged to served",
        (p50, p99),
        {
            "events/s": [f"{one.sent_a_second:,.0f}" for one in loads],
            "events a batch": [f"{one.events_a_batch:,.0f}" for one in loads],
            "worker cores": [f"{one.worker_cores:.2f}" for one in loads],
            "Valkey cores": [f"{one.valkey_cores:.2f}" for one in loads],
        },
        is_log=True,
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * _WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'{left}<g transform="translate({_WIDTH},0)">{right}</g></svg>\n'
    )


def _panel(title: str, lines: Sequence[_Line], captions: dict[str, list[str]], *, is_log: bool) -> str:
    every = [value for line in lines for value in line.values]
    low, high = (min(every), max(every)) if is_log else (0.0, max(every))
    spread, count = log(high / low) if is_log else 0.0, len(lines[0].values)

    def across(index: int) -> float:
        return _LEFT + (index + 0.5) * (_WIDTH - _LEFT - _RIGHT) / count

    def up(value: float) -> float:
        share = (log(value / low) / spread if spread else 0.5) if is_log else value / high
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    out = [f'<text x="{_WIDTH / 2}" y="20" text-anchor="middle" font-size="13" fill="black">{title}</text>']
    # Where nothing is zero, the lowest point's label has room above the line.
    below = _HEIGHT - _BOTTOM + 22
    floor = below if is_log else up(0.0)
    if not is_log:
        out.append(f'<text x="{_LEFT - 6}" y="{floor + 4:.1f}" text-anchor="end" fill="{_GREY}">0</text>')
    out.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}" stroke="#bbb"/>')
    for place, line in enumerate(lines):
        name_x = _LEFT + 70 * place
        out.append(f'<text x="{name_x}" y="38" fill="{line.colour}">{line.name}</text>')
        dots = [(across(index), up(value)) for index, value in enumerate(line.values)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        out.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="1.5"/>')
        # Labels of the lower line stand below their points, where the upper line's do not come.
        beside = -7 if place == len(lines) - 1 else 15
        for (x, y), value in zip(dots, line.values, strict=True):
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>')
            out.append(
                f'<text x="{x:.1f}" y="{y + beside:.1f}" text-anchor="middle" fill="{line.colour}" {_HALO}>'
                f"{line.show(value)}</text>"
            )
    for row, (name, values) in enumerate(captions.items()):
        y = below + (row + 1) * _ROW
        out.append(f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end" fill="{_GREY}">{name}</text>')
        for index, said in enumerate(values):
            colour = _GREY if row else "black"
            out.append(f'<text x="{across(index):.1f}" y="{y}" text-anchor="middle" fill="{colour}">{said}</text>')
    return "".join(out)
