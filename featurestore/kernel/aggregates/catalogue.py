"""The aggregates that a definition may name: what each takes, how exact it is, and what builds it.

Adding one is a new entry here, over partials that exist or a new family beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from featurestore.errors import UnsupportedAggregateError
from featurestore.event_time import MINUTE_US
from featurestore.kernel.aggregates import (
    counting,
    decayed,
    distinct,
    extremes,
    lists,
    moments,
    order,
    pairs,
    tallies,
    texts,
)
from featurestore.kernel.aggregates.compiled import Ask, Builder, Compiled, given
from featurestore.kernel.aggregates.heaps import heap_of
from featurestore.kernel.aggregates.own import OwnAggregate, own_builder
from featurestore.kernel.aggregates.partial import Input
from featurestore.kernel.aggregates.ratio import ratio
from featurestore.kernel.events import DataType, family
from featurestore.kernel.hyperloglog import STANDARD_ERROR
from featurestore.kernel.windows import Sliding

__all__ = ["FUNCTIONS", "Ask", "Compiled", "Function", "compile_aggregate", "described", "function_of"]

Takes = Literal["a column", "two columns", "events", "events or a column", "two aggregates"]

_NUMBERS: tuple[DataType, ...] = ("int64", "float64", "decimal", "bool")
_MEASURED: tuple[DataType, ...] = ("int64", "float64", "decimal")
_NAMED: tuple[DataType, ...] = ("string", "int64", "decimal", "bool")
_ALL: tuple[DataType, ...] = ("int64", "float64", "decimal", "bool", "timestamp", "string")


@dataclass(frozen=True, slots=True)
class Argument:
    """The number that a function takes: what it is called, and its range."""

    name: str
    low: float
    high: float
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Function:
    """What the catalogue says of one function.

    accepted    column types, decimals of all lengths as one
    exactness   exact, or the bound of its error
    needs_size  a window of a fixed length
    decays      weighs events by their age
    """

    name: str
    takes: Takes
    accepted: tuple[DataType, ...]
    build: Builder
    exactness: str
    argument: Argument | None = None
    needs_size: bool = False
    decays: bool = False


_EXACT = "exact, rounded once"
_ROOT = "root of an exactly rounded number"
_DISTINCT = f"exact to {distinct.EXACT_MAX:,}, then {STANDARD_ERROR:.2%} standard error (HyperLogLog)"
_ENTROPY = f"exact counts; null above {pairs.VALUES_MAX:,} different values"
_QUANTILE = f"within 1/128 of the value of that rank; null above {pairs.BUCKETS_MAX:,} buckets, 64 an octave"
_TALLY = f"exact; null above {tallies.VALUES_MAX:,} different values"
_FADED = "exact within a tile; within 1e-12 of the sum of magnitudes"
_LENGTH = Argument("n", 1, lists.VALUES_MAX)
_HALF_LIFE = Argument("half_life", 1_000, 100 * 366 * 86_400 * 1_000_000)


def _extreme(which: Literal["min", "max"]) -> Builder:
    numbers = extremes.extreme(which)

    def build(ask: Ask) -> Compiled:
        column = given(ask.column)
        return texts.text_extreme(column, which) if column.dtype == "string" else numbers(ask)

    return build


FUNCTIONS: dict[str, Function] = {
    each.name: each
    for each in (
        Function("count", "events or a column", _ALL, counting.count, "exact"),
        Function("rate", "events or a column", _ALL, counting.rate, _EXACT, needs_size=True),
        Function("sum", "a column", _NUMBERS, moments.total, _EXACT),
        Function("mean", "a column", _NUMBERS, moments.mean, _EXACT),
        Function("std", "a column", _NUMBERS, moments.spread(ddof=1, root=True), _ROOT),
        Function("std_population", "a column", _NUMBERS, moments.spread(ddof=0, root=True), _ROOT),
        Function("variance", "a column", _NUMBERS, moments.spread(ddof=1, root=False), _EXACT),
        Function("variance_population", "a column", _NUMBERS, moments.spread(ddof=0, root=False), _EXACT),
        Function("skewness", "a column", _NUMBERS, moments.shape(3), _ROOT),
        Function("kurtosis", "a column", _NUMBERS, moments.shape(4), _EXACT),
        Function("covariance", "two columns", _NUMBERS, moments.together("covariance"), _EXACT),
        Function("correlation", "two columns", _NUMBERS, moments.together("correlation"), _ROOT),
        Function("trend", "a column", _NUMBERS, moments.trend, _EXACT),
        Function("min", "a column", _ALL, _extreme("min"), "exact"),
        Function("max", "a column", _ALL, _extreme("max"), "exact"),
        Function("first", "a column", _ALL, order.edge("first"), "exact"),
        Function("last", "a column", _ALL, order.edge("last"), "exact"),
        Function("first_n", "a column", _ALL, lists.ends("first", distinct=False), "exact", _LENGTH),
        Function("last_n", "a column", _ALL, lists.ends("last", distinct=False), "exact", _LENGTH),
        Function("first_n_distinct", "a column", _ALL, lists.ends("first", distinct=True), "exact", _LENGTH),
        Function("last_n_distinct", "a column", _ALL, lists.ends("last", distinct=True), "exact", _LENGTH),
        Function("since_last", "events", (), extremes.since_last, _EXACT),
        Function("gap_mean", "events", (), extremes.gap_mean, _EXACT),
        Function("distinct", "a column", _ALL, distinct.distinct, _DISTINCT),
        Function("entropy", "a column", _ALL, pairs.entropy, _ENTROPY),
        Function("values", "a column", _ALL, tallies.values, _TALLY),
        Function("top_k", "a column", _ALL, tallies.top_k, _TALLY, Argument("k", 1, tallies.VALUES_MAX)),
        Function("counts", "a column", _NAMED, tallies.counts, _TALLY),
        Function(
            "quantile",
            "a column",
            _MEASURED,
            pairs.quantile,
            _QUANTILE,
            Argument("q", 0, 1, is_whole=False),
        ),
        Function("decayed_sum", "a column", _NUMBERS, decayed.decayed_sum, _FADED, _HALF_LIFE, decays=True),
        Function("decayed_mean", "a column", _NUMBERS, decayed.decayed_mean, _FADED, _HALF_LIFE, decays=True),
        Function("ratio", "two aggregates", (), ratio, "quotient of the two values, rounded once"),
    )
}


def function_of(function: str | OwnAggregate) -> Function:
    """The entry of a name, or of an author's own aggregate."""
    if isinstance(function, OwnAggregate):
        return Function(function.name, "a column", function.accepts, own_builder(function), "the author's")
    return FUNCTIONS[function]


def compile_aggregate(owner: str, function: str | OwnAggregate, ask: Ask) -> Compiled:
    """The partials and the finish of a function on what it is asked for; raises UnsupportedAggregateError."""
    entry = function_of(function)
    there = [column for column in (ask.column, ask.other) if column is not None]
    wanted = {"a column": 1, "two columns": 2}.get(entry.takes, 0)
    if len(there) < wanted or (not wanted and there and entry.takes != "events or a column"):
        raise UnsupportedAggregateError(f"{owner}: {entry.name} takes {entry.takes}")
    for column in there:
        if family(column.dtype) not in entry.accepted and column.dtype not in entry.accepted:
            raise UnsupportedAggregateError(
                f"{owner}: {entry.name} of {_written(column)!r} is not defined, since the column is "
                f"{column.dtype}; it takes {', '.join(entry.accepted)}"
            )
    _check_argument(owner, entry, ask.argument)
    for part in ask.parts:
        if family(part.dtype) not in _MEASURED:
            raise UnsupportedAggregateError(
                f"{owner}: {entry.name} divides numbers, but one of its parts gives {part.dtype}"
            )
    return entry.build(ask)


def _written(column: Input) -> str:
    """The name that the author gave: what stands behind it says which of its values count."""
    return re.split("[?&~]", column.name)[0]


def _check_argument(owner: str, entry: Function, argument: float | None) -> None:
    wanted = entry.argument
    if wanted is None:
        return
    if (
        not isinstance(argument, int | float)
        or isinstance(argument, bool)
        or not wanted.low <= argument <= wanted.high
        or (wanted.is_whole and argument != int(argument))
    ):
        kind = "a whole number" if wanted.is_whole else "a number"
        raise UnsupportedAggregateError(
            f"{owner}: {wanted.name} of {entry.name} must be {kind} from {wanted.low:g} to {wanted.high:g}, "
            f"but it is {argument!r}"
        )


def described(function: str) -> tuple[str, str, str, str, str, str]:
    """Name, column types, partials, their bytes a tile, windows, exactness: for people."""
    entry = FUNCTIONS[function]
    compiled = _example(entry)
    sizes = [
        sum(np.dtype(field.dtype).itemsize * field.count for field in partial.fields(1))
        for partial in compiled.partials
    ]
    heaps = [heap_of(partial) for partial in compiled.partials if partial.has_heap]
    # What it keeps is told for a column of 8 bytes a value; of texts their own length comes on top.
    more = "".join(f" + {heap.one:,} a value, {heap.most:,} at most" for heap in heaps)
    takes = entry.takes if not entry.accepted else f"{entry.takes}: {', '.join(entry.accepted)}"
    windows = "of a fixed length" if entry.needs_size else "sliding" if entry.decays else "all"
    names: Sequence[str] = [partial.name for partial in compiled.partials]
    return function, takes, ", ".join(names), f"{sum(sizes)}{more}", windows, entry.exactness


def _example(entry: Function) -> Compiled:
    if entry.takes == "two aggregates":
        x = Input("x", "float64", False)
        return entry.build(Ask(parts=(moments.total(Ask(column=x)), counting.count(Ask()))))
    kind: DataType = "float64" if "float64" in entry.accepted else "int64"
    x, y = Input("x", kind, True), Input("y", kind, True)
    has_column = entry.takes in ("a column", "two columns")
    return entry.build(
        Ask(
            column=x if has_column else None,
            other=y if entry.takes == "two columns" else None,
            time=Input("@time", "timestamp", False),
            faded=x,
            weight=Input("@one", "float64", False),
            argument=0.5 if entry.name == "quantile" else 10.0,
            over=Sliding(60 * MINUTE_US, MINUTE_US),
        )
    )
