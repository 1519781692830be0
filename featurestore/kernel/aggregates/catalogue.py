"""The aggregates that a definition may name: which partials each needs, and how it finishes.

Adding one is a new entry here, over partials that exist or a new family beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from featurestore.errors import UnsupportedAggregateError
from featurestore.kernel import exact
from featurestore.kernel.aggregates.counting import CountPartial
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.order import LastPartial, held
from featurestore.kernel.aggregates.partial import Finished, Input, Partial, State
from featurestore.kernel.aggregates.sums import SumPartial
from featurestore.kernel.events import DataType

_NUMBERS: tuple[DataType, ...] = ("int64", "float64", "bool")
_ORDERED: tuple[DataType, ...] = ("int64", "float64", "timestamp")
_ALL: tuple[DataType, ...] = ("int64", "float64", "bool", "timestamp", "string")


@dataclass(frozen=True, slots=True)
class Compiled:
    """An aggregate of one column, ready to run: its partials, result type, and finish."""

    partials: tuple[Partial, ...]
    dtype: DataType
    finish: Callable[[Mapping[str, State]], Finished]
    # What an entity without events in the window has: SQL's 0 for a count, null for the rest.
    zero_when_empty: bool = False


def compile_aggregate(function: str, column: Input | None) -> Compiled:
    """The partials and the finish of `function` on `column`; raises UnsupportedAggregateError."""
    accepted, build = FUNCTIONS[function]
    if column is None:
        if function != "count":
            raise UnsupportedAggregateError(f"{function}() needs a column; write {function}('column')")
        return _count(None)
    if column.dtype not in accepted:
        raise UnsupportedAggregateError(
            f"{function}({column.name!r}) is not defined for a {column.dtype} column; it takes {', '.join(accepted)}"
        )
    return build(column)


def _counter(column: Input | None) -> CountPartial:
    # A column that is never null has as many values as there are events: one counter serves all such columns.
    return CountPartial(column.name if column is not None and column.nullable else None)


def _count(column: Input | None) -> Compiled:
    counter = _counter(column)

    def finish(states: Mapping[str, State]) -> Finished:
        counts = states[counter.name]["count"]
        return Finished(counts, np.ones(len(counts), dtype=np.bool_))

    return Compiled((counter,), "int64", finish, zero_when_empty=True)


def _sum(column: Input) -> Compiled:
    counter, total = _counter(column), SumPartial(column.name, column.dtype)

    def finish(states: Mapping[str, State]) -> Finished:
        some = states[counter.name]["count"] > 0
        digits = states[total.name]["digits"]
        if column.dtype == "float64":
            return Finished(exact.to_floats(digits, 1), some)
        values, fits = exact.to_ints(digits)
        return Finished(values, some & fits)

    return Compiled((counter, total), "float64" if column.dtype == "float64" else "int64", finish)


def _mean(column: Input) -> Compiled:
    counter, total = _counter(column), SumPartial(column.name, column.dtype)

    def finish(states: Mapping[str, State]) -> Finished:
        counts = states[counter.name]["count"]
        return Finished(exact.means(states[total.name]["digits"], np.maximum(counts, 1)), counts > 0)

    return Compiled((counter, total), "float64", finish)


def _std(column: Input) -> Compiled:
    counter = _counter(column)
    total, squares = SumPartial(column.name, column.dtype), SumPartial(column.name, column.dtype, power=2)

    def finish(states: Mapping[str, State]) -> Finished:
        counts = states[counter.name]["count"]
        spread = exact.variances(
            states[total.name]["digits"], states[squares.name]["digits"], np.maximum(counts, 2), ddof=1
        )
        # One value has no sample deviation: null, as in SQL. (Its numerator is 0 for the substituted count or not.)
        return Finished(np.sqrt(np.maximum(spread, 0.0)), counts > 1)

    return Compiled((counter, total, squares), "float64", finish)


def _min(column: Input) -> Compiled:
    return _extreme(column, ExtremePartial(column.name, column.dtype, "min"))


def _max(column: Input) -> Compiled:
    return _extreme(column, ExtremePartial(column.name, column.dtype, "max"))


def _extreme(column: Input, extreme: ExtremePartial) -> Compiled:
    counter = _counter(column)

    def finish(states: Mapping[str, State]) -> Finished:
        return Finished(states[extreme.name]["value"], states[counter.name]["count"] > 0)

    return Compiled((counter, extreme), column.dtype, finish)


def _last(column: Input) -> Compiled:
    newest = LastPartial(column.name, column.dtype)

    def finish(states: Mapping[str, State]) -> Finished:
        return Finished(states[newest.name]["value"], held(states[newest.name]))

    return Compiled((newest,), column.dtype, finish)


# Name -> accepted column types, and the builder.
FUNCTIONS: dict[str, tuple[tuple[DataType, ...], Callable[[Input], Compiled]]] = {
    "count": (_ALL, _count),
    "sum": (_NUMBERS, _sum),
    "mean": (_NUMBERS, _mean),
    "std": (_NUMBERS, _std),
    "min": (_ORDERED, _min),
    "max": (_ORDERED, _max),
    "last": (_ALL, _last),
}
