"""The slow, obvious twin of the kernel: plain Python lists, fractions, and the definition itself."""

from __future__ import annotations

import math
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


def value(function: str, column: str | None, dtype: str, events: list[Event]) -> Any:
    """The aggregate of these events, by its definition."""
    ordered = sorted(events, key=lambda e: (e.event_us, e.partition, e.offset))
    if column is None:
        return len(ordered)
    values = [e.values[column] for e in ordered if e.values[column] is not None]
    if function == "count":
        return len(values)
    if not values:
        return None
    if function == "last":
        return values[-1]
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
    if function == "std":
        if len(values) < 2:
            return None
        mean = total / len(values)
        return math.sqrt(_float(sum((v - mean) ** 2 for v in exact) / (len(values) - 1)))
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
