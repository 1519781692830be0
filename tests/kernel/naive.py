"""The slow, obvious twin of the kernel: plain Python lists, fractions, and the definition itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from featurestore.kernel.tilings import Calendar
from featurestore.kernel.windows import Lifetime, Newest, Period, Session, Sliding, Window


@dataclass(frozen=True)
class Event:
    row: int
    event_us: int
    partition: int
    offset: int
    values: dict[str, Any]


def value(
    function: str,
    column: str | None,
    dtype: str,
    events: list[Event],
    moment_us: int = 0,
    size_us: int | None = None,
    argument: float | None = None,
    other: str | None = None,
) -> Any:
    """The aggregate of these events, by its definition."""
    ordered = sorted(events, key=lambda e: (e.event_us, e.partition, e.offset))
    if function == "since_last":
        return _float(Fraction(moment_us - ordered[-1].event_us, 1_000_000)) if ordered else None
    if function == "gap_mean":
        across_us = ordered[-1].event_us - ordered[0].event_us if ordered else 0
        return _float(Fraction(across_us, 1_000_000 * (len(ordered) - 1))) if len(ordered) > 1 else None
    values = [e.values[column] for e in ordered if e.values[column] is not None] if column else ordered
    if function in ("covariance", "correlation", "trend"):
        return _together(function, column, other, ordered)
    if function == "count":
        return len(values)
    if function == "rate":
        assert size_us is not None
        return _float(Fraction(len(values) * 1_000_000, size_us))
    if function == "distinct":
        return len(set(values))
    if not values:
        return None
    if function in ("first", "last"):
        return values[0 if function == "first" else -1]
    if function.startswith(("first_n", "last_n")):
        assert argument is not None
        nearest = values if function.startswith("first") else values[::-1]
        if function.endswith("distinct"):
            nearest = list(dict.fromkeys(_one_zero(v) for v in nearest))
        return nearest[: int(argument)]
    if function == "values":
        return sorted({_one_zero(v) for v in values})
    if function in ("top_k", "counts"):
        ranked = sorted(Counter(_one_zero(v) for v in values).items(), key=lambda one: (-one[1], one[0]))
        return [v for v, _ in ranked][: int(argument or 0)] if function == "top_k" else dict(ranked)
    if function.startswith("decayed"):
        assert argument is not None
        weighed = [
            (2.0 ** (-(moment_us - e.event_us) / argument), float(e.values[column]))
            for e in ordered
            if e.values[column] is not None
        ]
        faded = _float(sum((Fraction(weight) * Fraction(v) for weight, v in weighed), Fraction(0)))
        weight = math.fsum(weight for weight, _ in weighed)
        if function == "decayed_mean" and weight < 1e-290:
            return None  # faded below what floats can weigh
        return faded if function == "decayed_sum" else faded / weight
    if function == "entropy":
        shares = [Fraction(count, len(values)) for count in Counter(values).values()]
        return sum(-float(share) * math.log2(share) for share in shares)
    if function == "quantile":
        assert argument is not None
        return sorted(values)[int(argument * (len(values) - 1))]
    if function in ("min", "max"):
        extreme = (min if function == "min" else max)(values)
        return extreme + 0.0 if dtype == "float64" else extreme
    exact = [Fraction(v) for v in values]
    total = sum(exact, Fraction(0))
    if function == "sum":
        if dtype == "float64":
            return _float(total)
        if dtype.startswith("decimal"):
            return sum(values, Decimal(0))
        return int(total) if -(2**63) <= total < 2**63 else None
    if function == "mean":
        return _float(total / len(values))
    if function.startswith(("std", "variance")):
        ddof = 0 if function.endswith("_population") else 1
        if len(values) <= ddof:
            return None
        mean = total / len(values)
        spread = _float(sum((v - mean) ** 2 for v in exact) / (len(values) - ddof))
        return math.sqrt(spread) if function.startswith("std") else spread
    if function in ("skewness", "kurtosis"):
        n, mean = len(values), total / len(values)
        m2, m3, m4 = (sum((v - mean) ** power for v in exact) / n for power in (2, 3, 4))
        if not m2:
            return None
        return _float(m4 / m2**2 - 3) if function == "kurtosis" else _root(m3 * m3 / m2**3, m3)
    raise AssertionError(function)


def _together(function: str, column: str | None, other: str | None, ordered: list[Event]) -> float | None:
    """Covariance, correlation or slope by their definition: products of distances from the mean."""
    pairs = [(Fraction(e.event_us, 1_000_000) if other is None else e.values[other], e.values[column]) for e in ordered]
    both = [(Fraction(x), Fraction(y)) for x, y in pairs if x is not None and y is not None]
    if not both:
        return None
    n = len(both)
    mean_x, mean_y = sum(x for x, _ in both) / n, sum(y for _, y in both) / n
    xy = sum((x - mean_x) * (y - mean_y) for x, y in both)
    xx, yy = sum((x - mean_x) ** 2 for x, _ in both), sum((y - mean_y) ** 2 for _, y in both)
    if function == "covariance":
        return _float(xy / (n - 1)) if n > 1 else None
    if function == "trend":
        return _float(xy / xx) if xx else None
    return _root(xy * xy / (xx * yy), xy) if xx and yy else None


def _root(square: Fraction, sign: Fraction) -> float:
    return math.sqrt(_float(square)) * (-1 if sign < 0 else 1)


def _one_zero(value: Any) -> Any:
    return 0.0 if value == 0 and isinstance(value, float) else value


def in_window(events: list[Event], row: int, moment_us: int, window: Window) -> list[Event]:
    """Events of the entity that the window covers at the moment, by its definition, in order."""
    mine = sorted(
        (e for e in events if e.row == row and e.event_us <= moment_us),
        key=lambda e: (e.event_us, e.partition, e.offset),
    )
    match window:
        case Lifetime():
            return mine
        case Newest(count):
            return mine[-count:]
        case Sliding(size_us, slide_us, shift_us):
            start = (moment_us - shift_us - size_us) // slide_us * slide_us
            end = (moment_us - shift_us) // slide_us * slide_us if shift_us else moment_us + 1
            return [e for e in mine if start <= e.event_us < end]
        case Session(gap_us, longest_us, tile_us):
            start = (moment_us - longest_us) // tile_us * tile_us
            chain: list[Event] = []
            before_us = moment_us
            for e in reversed(mine):
                if before_us - e.event_us > gap_us or e.event_us < start:
                    break
                chain.append(e)
                before_us = e.event_us
            return chain[::-1]
        case Period(tiling, ago):
            start, end = _period(tiling, moment_us)
            for _ in range(ago):
                start, end = _period(tiling, start - 1)
            return [e for e in mine if start <= e.event_us < end]
    raise AssertionError(window)


def _period(tiling: Any, moment_us: int) -> tuple[int, int]:
    """The period that holds the moment."""
    if not isinstance(tiling, Calendar):
        start = moment_us // tiling.tile_us * tiling.tile_us
        return start, start + tiling.tile_us
    zone = ZoneInfo(tiling.zone)

    def midnight_us(day: date) -> int:
        there = datetime(day.year, day.month, day.day, tzinfo=zone)
        return (there.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

    day = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)).astimezone(zone).date()
    # Clocks that are put back over midnight show a day that is over.
    while midnight_us(day + timedelta(days=1)) <= moment_us:
        day += timedelta(days=1)
    while midnight_us(day) > moment_us:
        day -= timedelta(days=1)
    if tiling.unit == "hour":
        hour_us, start = 3_600_000_000, midnight_us(day)
        first = start + (moment_us - start) // hour_us * hour_us
        return first, min(first + hour_us, midnight_us(day + timedelta(days=1)))
    while (tiling.unit == "week" and day.weekday() != 0) or (tiling.unit == "month" and day.day != 1):
        day -= timedelta(days=1)
    last = day + timedelta(days=1)
    while (tiling.unit == "week" and last.weekday() != 0) or (tiling.unit == "month" and last.day != 1):
        last += timedelta(days=1)
    return midnight_us(day), midnight_us(last)


def _float(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf
