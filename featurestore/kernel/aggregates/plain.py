"""Which aggregates the compiled loops finish themselves: counts, sums, means, minima and maxima of plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.kernel.aggregates.compiled import Compiled
from featurestore.kernel.aggregates.counting import CountPartial
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.sums import SumPartial
from featurestore.kernel.events import DataType

_NUMBERS: tuple[DataType, ...] = ("float64", "int64", "bool", "timestamp")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plain aggregate is finished from: how many values `counter` has, and what is made of `value`.

    counter  a column that may be null; None: every event counts
    """

    counter: str | None
    value: str | None
    dtype: DataType


def asked(aggregate: Compiled) -> Asked | None:
    """None where the loops cannot finish it."""
    kind = aggregate.plain
    match aggregate.partials:
        case (CountPartial() as counter,) if kind == "count":
            return Asked(counter.column, None, "int64")
        case (CountPartial() as counter, SumPartial(power=1) as found) if kind in ("sum", "mean"):
            is_known = found.dtype in _NUMBERS and aggregate.dtype in ("float64", "int64")
        case (CountPartial() as counter, ExtremePartial() as found) if kind in ("min", "max"):
            # Truths are read as numbers here, and would have to become truths again.
            is_known = found.dtype in _NUMBERS and aggregate.dtype == found.dtype != "bool"
        case _:
            return None
    return Asked(counter.column, found.column, found.dtype) if is_known else None
