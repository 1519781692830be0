"""How the kernel's cost grows with events, entities, windows and moments: four curves, drawn as one SVG."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from featurestore.bench.kernel import drawn
from featurestore.event_time import DAY_US, HOUR_US
from featurestore.kernel import Feature, Plan, compile_plan, fold, roll_up, values_at

Say = Callable[[str], None]
_ROUNDS = 3
_WIDTH, _HEIGHT, _MARGIN = 360, 220, 48


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds over a size; both double from point to point, so a straight line of slope 1 is linear cost."""

    what: str
    over: str
    points: tuple[tuple[int, float], ...]

    @property
    def slope(self) -> float:
        """Power of the size with which the cost grows; 1 is linear."""
        (first, began), (last, ended) = self.points[0], self.points[-1]
        return float(np.log(ended / began) / np.log(last / first))


def growth(say: Say) -> tuple[Curve, ...]:
    """Measure all four; a few seconds each."""
    curves = []
    for what, over, sizes, work in (
        ("fold", "events", (5_000, 10_000, 20_000, 40_000, 80_000), _fold_events),
        ("fold 20,000 events", "entities", (250, 500, 1_000, 2_000, 4_000), _fold_entities),
        ("roll up 500 rows", "windows", (1, 2, 4, 8), _roll_up_windows),
        ("join 100,000 events", "moments", (2_000, 4_000, 8_000, 16_000, 32_000), _join_moments),
    ):
        curve = Curve(what, over, tuple((size, _seconds(work(size))) for size in sizes))
        say(f"{what} over {over}: cost grows with the power {curve.slope:.2f}")
        curves.append(curve)
    return tuple(curves)


def as_svg(curves: Sequence[Curve]) -> str:
    """One panel a curve, both axes logarithmic; the grey line is linear cost from the first point."""
    panels = "".join(_panel(curve, index % 2, index // 2) for index, curve in enumerate(curves))
    height = (len(curves) + 1) // 2 * _HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * _WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>{panels}</svg>\n'
    )


def _panel(curve: Curve, column: int, row: int) -> str:
    sizes, seconds = (np.array(side, dtype=np.float64) for side in zip(*curve.points, strict=True))
    linear = seconds[0] * sizes / sizes[0]
    low, high = min(seconds.min(), linear.min()), max(seconds.max(), linear.max())

    def place(size: float, second: float) -> tuple[float, float]:
        across = np.log(size / sizes[0]) / np.log(sizes[-1] / sizes[0])
        up = np.log(second / low) / np.log(high / low)
        return _MARGIN + across * (_WIDTH - 2 * _MARGIN), _HEIGHT - _MARGIN - up * (_HEIGHT - 2 * _MARGIN)

    def line(values: Sequence[float], colour: str) -> str:
        points = " ".join("{:.1f},{:.1f}".format(*place(*each)) for each in zip(sizes, values, strict=True))
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    marks = ""
    for size, second in zip(sizes, seconds, strict=True):
        x, y = place(size, second)
        marks += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1f5fa8"/>'
        marks += f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle">{1_000 * second:.3g} ms</text>'
        marks += f'<text x="{x:.1f}" y="{_HEIGHT - 26}" text-anchor="middle" fill="#666">{int(size):,}</text>'
    title = f'<text x="{_WIDTH / 2}" y="20" text-anchor="middle" font-size="13">{curve.what}, by {curve.over}</text>'
    drawn_lines = line(linear.tolist(), "#bbb") + line(seconds.tolist(), "#1f5fa8")
    return f'<g transform="translate({column * _WIDTH},{row * _HEIGHT})">{title}{drawn_lines}{marks}</g>'


def _plan(windows: Sequence[str]) -> Plan:
    features = {
        name: Feature(name, None if name == "count" else "amount").over(*windows)
        for name in ("count", "sum", "mean", "min", "max")
    }
    return compile_plan("growth", features, {"amount": "float64"}, frozenset())


def _fold_events(count: int) -> Callable[[], object]:
    plan, events = _plan(("1h", "24h")), drawn(count, 1_000, 0, HOUR_US, 1)
    return lambda: fold([None] * 1_000, events, plan)


def _fold_entities(count: int) -> Callable[[], object]:
    plan, events = _plan(("1h", "24h")), drawn(20_000, count, 0, HOUR_US, 2)
    return lambda: fold([None] * count, events, plan)


def _roll_up_windows(count: int) -> Callable[[], object]:
    plan = _plan([f"{hours}h" for hours in (1, 2, 4, 6, 8, 12, 16, 24)][:count])
    rows = fold([None] * 500, drawn(50_000, 500, 0, DAY_US, 3), plan)
    return lambda: roll_up(rows, DAY_US, plan)


def _join_moments(count: int) -> Callable[[], object]:
    plan, events = _plan(("1h", "24h")), drawn(100_000, 1_000, 0, DAY_US, 4)
    draw = np.random.default_rng(5)
    rows, moments = draw.integers(0, 1_000, count), draw.integers(0, DAY_US, count)
    return lambda: values_at(events, rows, moments, plan)


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])
