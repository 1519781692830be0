"""A partial over many overlapping ranges of sorted events, from one pass over the events.

Counts and ordinary sums are differences of running totals, exact because the totals are whole numbers; minima and
maxima come from extremes of blocks. Every other partial merges its ranges itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.counting import CountPartial
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.partial import Partial, State
from featurestore.kernel.aggregates.sums import SumPartial
from featurestore.kernel.events import Column, Events
from featurestore.kernel.loops import ranges as loops
from featurestore.kernel.memory import room
from featurestore.kernel.plain import Numbers

Ints = npt.NDArray[np.int64]
Over = Callable[[Ints, Ints], State]


def ranged(partial: Partial, events: Events) -> Over:
    """What gives the partial's state over ranges [low, high) of the sorted events; low < high everywhere."""
    match partial:
        case CountPartial():
            return _counted(events, partial)
        case SumPartial(power=1):
            over = _summed(partial, events.columns[partial.column])
            if over is not None:
                return over
        case ExtremePartial() if len(events):
            return _extremes(partial, events.columns[partial.column])
    lifted = partial.lift(events)
    return lambda low, high: partial.over(lifted, low, high)


def _counted(events: Events, partial: CountPartial) -> Over:
    valid = None if partial.column is None else events.columns[partial.column].valid
    if valid is None:
        return lambda low, high: {"count": high - low}
    prefix = room(len(events) + 1)
    loops.count_valid(valid, prefix)
    return lambda low, high: {"count": prefix[high] - prefix[low]}


def _summed(partial: SumPartial, column: Column) -> Over | None:
    numbers = Numbers.of(column, partial.dtype)
    prefix = numbers.block_sums()
    if prefix is None:
        return None

    def over(low: Ints, high: Ints) -> State:
        digits = room((len(low), 4 if numbers.is_float else 3))
        loops.differences(numbers.sums_before(prefix, high), numbers.sums_before(prefix, low), digits)
        return {"digits": digits}

    return over


def _extremes(partial: ExtremePartial, column: Column) -> Over:
    numbers = Numbers.of(column, partial.dtype)
    blocks = numbers.block_extremes()

    def over(low: Ints, high: Ints) -> State:
        both = room((2, len(low)))
        loops.extremes(*numbers.given, *blocks, *numbers.newest_extremes(high), high - low, low, high, *both)
        out = both[0 if partial.which == "min" else 1]
        return {"value": out.view(np.float64) if numbers.is_float else out}

    return over
