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
from featurestore.kernel.aggregates.partial import Array, Partial, State
from featurestore.kernel.aggregates.sums import SumPartial
from featurestore.kernel.events import Column, Events
from featurestore.kernel.loops import ranges as loops
from featurestore.kernel.loops.words import ordered

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
            return _extremes(partial, events)
    lifted = partial.lift(events)
    return lambda low, high: partial.over(lifted, low, high)


def _counted(events: Events, partial: CountPartial) -> Over:
    valid = None if partial.column is None else events.columns[partial.column].valid
    if valid is None:
        return lambda low, high: {"count": high - low}
    prefix = np.empty(len(events) + 1, dtype=np.int64)
    loops.count_valid(valid, prefix)
    return lambda low, high: {"count": prefix[high] - prefix[low]}


def _summed(partial: SumPartial, column: Column) -> Over | None:
    valid = _valid(column)
    prefix = np.empty((len(valid) + 1, 2), dtype=np.uint64)
    if partial.dtype == "float64":
        bits = _bits(column.values)
        if not loops.fits_narrow(bits, valid):
            return None
        loops.sum_floats(bits, valid, prefix)
        width = 4
    else:
        loops.sum_ints(np.ascontiguousarray(column.values, dtype=np.int64), valid, prefix)
        width = 3

    def over(low: Ints, high: Ints) -> State:
        digits = np.empty((len(low), width), dtype=np.int64)
        loops.differences(prefix, low, high, digits)
        return {"digits": digits}

    return over


def _extremes(partial: ExtremePartial, events: Events) -> Over:
    column, is_float = events.columns[partial.column], partial.dtype == "float64"
    numbers = _bits(column.values) if is_float else np.ascontiguousarray(column.values, dtype=np.int64)
    far = np.iinfo(np.int64).max if partial.which == "min" else np.iinfo(np.int64).min
    empty = ordered(np.float64(np.inf if partial.which == "min" else -np.inf).view(np.int64)) if is_float else far
    keys = np.empty(len(numbers), dtype=np.int64)
    loops.keys_of(numbers, _valid(column), is_float, empty, keys)
    sign = 1 if partial.which == "min" else -1
    table = loops.block_extremes(keys, sign)

    def over(low: Ints, high: Ints) -> State:
        out = np.empty(len(low), dtype=np.int64)
        loops.extremes(keys, sign, table, low, high, is_float, out)
        return {"value": out.view(np.float64) if is_float else out}

    return over


def _bits(values: Array) -> Ints:
    return np.ascontiguousarray(values, dtype=np.float64).view(np.int64)


def _valid(column: Column) -> npt.NDArray[np.bool_]:
    return np.ones(len(column.values), dtype=np.bool_) if column.valid is None else column.valid
