"""The slow, obvious twin of the kernel: plain Python lists, fractions, and the definition itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


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
) -> Any:
    """The aggregate of these events, by its definition."""
    ordered = sorted(events, key=lambda e: (e.event_us, e.partition, e.offset))
    if function == "since_last":
        return (moment_us - ordered[-1].event_us) / 1e6 if ordered else None
    if function == "gap_mean":
        across_us = ordered[-1].event_us - ordered[0].event_us if ordered else 0
        return _float(Fraction(across_us, 1_000_000 * (len(ordered) - 1))) if len(ordered) > 1 else None
    values = [e.values[column] for e in ordered if e.values[column] is not None] if column else ordered
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
    if function == "entropy":
        shares = [Fraction(count, len(values)) for count in Counter(values).values()]
        return sum(-float(share) * math.log2(share) for share in shares)
    if function == "quantile":
        assert argument is not None
        return sorted(values)[int(argument * (len(values) - 1))]
    if function in ("min", "max"):
        return (min if function == "min" else max)(values) + (0.0 if dtype == "float64" else 0)
    exact = [Fraction(v) for v in values]
    total = sum(exact, Fraction(0))
    if function == "sum":
        if dtype == "float64":
            return _float(total)
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
    raise AssertionError(function)


def in_window(events: list[Event], row: int, moment_us: int, size_us: int | None, slide_us: int | None) -> list[Event]:
    """Events of the entity with tile_start(moment - window) <= event time <= moment."""
    if size_us is None or slide_us is None:
        return [e for e in events if e.row == row and e.event_us <= moment_us]
    start = (moment_us - size_us) // slide_us * slide_us
    return [e for e in events if e.row == row and start <= e.event_us <= moment_us]


def _float(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf
