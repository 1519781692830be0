"""The aggregates that a definition may name: which partials each needs, and how it finishes.

Adding one is a new entry here, over partials that exist or a new family beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import UnsupportedAggregateError
from featurestore.event_time import SECOND_US
from featurestore.kernel import exact
from featurestore.kernel.aggregates.counting import CountPartial
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.order import OrderPartial
from featurestore.kernel.aggregates.pairs import DISTINCT_EXACT_MAX, PairsPartial, middles_of, unpacked
from featurestore.kernel.aggregates.partial import Finished, Input, Partial, Span, State
from featurestore.kernel.aggregates.sums import SumPartial
from featurestore.kernel.events import DataType

_NUMBERS: tuple[DataType, ...] = ("int64", "float64", "bool")
_ORDERED: tuple[DataType, ...] = ("int64", "float64", "timestamp")
_ALL: tuple[DataType, ...] = ("int64", "float64", "bool", "timestamp", "string")

Finish = Callable[[Mapping[str, State], Span], Finished]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Compiled:
    """An aggregate of one column, ready to run: its partials, result type, and finish."""

    partials: tuple[Partial, ...]
    dtype: DataType
    finish: Finish
    # What an entity without events in the window has: SQL's 0 for a count, null for the rest.
    zero_when_empty: bool = False
    needs_window: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """What the catalogue says of one function.

    accepted   column types; empty: it reads events, not a column
    exactness  exact, or the bound of its error
    argument   the range of its argument, None when it takes none
    """

    accepted: tuple[DataType, ...]
    build: Callable[[Input | None, float], Compiled]
    exactness: str
    without_column: bool = False
    argument: tuple[float, float] | None = None


def compile_aggregate(function: str, column: Input | None, argument: float | None = None) -> Compiled:
    """The partials and the finish of `function` on `column`; raises UnsupportedAggregateError."""
    entry = FUNCTIONS[function]
    if column is None and not entry.without_column:
        raise UnsupportedAggregateError(f"{function}() needs a column; write {function}('column')")
    if column is not None and column.dtype not in entry.accepted:
        takes = f"it takes {', '.join(entry.accepted)}" if entry.accepted else "it takes no column"
        raise UnsupportedAggregateError(
            f"{function}({column.name!r}) is not defined for a {column.dtype} column; {takes}"
        )
    if entry.argument is not None:
        low, high = entry.argument
        if argument is None or not low <= argument <= high:
            raise UnsupportedAggregateError(f"{function} needs a number from {low:g} to {high:g}, but got {argument!r}")
    return entry.build(column, argument or 0.0)


def _counter(column: Input | None) -> CountPartial:
    # A column that is never null has as many values as there are events: one counter serves all such columns.
    return CountPartial(column.name if column is not None and column.nullable else None)


def _count(column: Input | None, _: float) -> Compiled:
    counter = _counter(column)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        counts = states[counter.name]["count"]
        return Finished(counts, np.ones(len(counts), dtype=np.bool_))

    return Compiled((counter,), "int64", finish, zero_when_empty=True)


def _rate(column: Input | None, _: float) -> Compiled:
    counter = _counter(column)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        assert span.size_us is not None, "refused when compiled"
        counts = states[counter.name]["count"]
        # One rounding: the product is a whole number below 2**53.
        return Finished(counts * float(SECOND_US) / span.size_us, np.ones(len(counts), dtype=np.bool_))

    return Compiled((counter,), "float64", finish, zero_when_empty=True, needs_window=True)


def _sum(column: Input | None, _: float) -> Compiled:
    assert column is not None
    counter, total = _counter(column), SumPartial(column.name, column.dtype)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        some = states[counter.name]["count"] > 0
        digits = states[total.name]["digits"]
        if column.dtype == "float64":
            return Finished(exact.to_floats(digits, 1), some)
        values, fits = exact.to_ints(digits)
        return Finished(values, some & fits)

    return Compiled((counter, total), "float64" if column.dtype == "float64" else "int64", finish)


def _mean(column: Input | None, _: float) -> Compiled:
    assert column is not None
    counter, total = _counter(column), SumPartial(column.name, column.dtype)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        counts = states[counter.name]["count"]
        return Finished(exact.means(states[total.name]["digits"], np.maximum(counts, 1)), counts > 0)

    return Compiled((counter, total), "float64", finish)


def _spread(*, ddof: int, root: bool) -> Callable[[Input | None, float], Compiled]:
    """Variance or deviation, of a sample (ddof 1, null for one value) or of a population (ddof 0)."""

    def build(column: Input | None, _: float) -> Compiled:
        assert column is not None
        counter = _counter(column)
        total, squares = SumPartial(column.name, column.dtype), SumPartial(column.name, column.dtype, power=2)

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            counts = states[counter.name]["count"]
            sums, powers = states[total.name]["digits"], states[squares.name]["digits"]
            spread = np.maximum(exact.variances(sums, powers, np.maximum(counts, ddof + 1), ddof=ddof), 0.0)
            return Finished(np.sqrt(spread) if root else spread, counts > ddof)

        return Compiled((counter, total, squares), "float64", finish)

    return build


def _extreme(which: str) -> Callable[[Input | None, float], Compiled]:
    def build(column: Input | None, _: float) -> Compiled:
        assert column is not None
        counter = _counter(column)
        extreme = ExtremePartial(column.name, column.dtype, "min" if which == "min" else "max")

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            return Finished(states[extreme.name]["value"], states[counter.name]["count"] > 0)

        return Compiled((counter, extreme), column.dtype, finish)

    return build


def _edge(which: str) -> Callable[[Input | None, float], Compiled]:
    def build(column: Input | None, _: float) -> Compiled:
        assert column is not None
        edge = OrderPartial(column.name, column.dtype, "first" if which == "first" else "last")

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            return Finished(states[edge.name]["value"], edge.held(states[edge.name]))

        return Compiled((edge,), column.dtype, finish)

    return build


def _since_last(column: Input | None, _: float) -> Compiled:
    newest = ExtremePartial(None, "timestamp", "max")

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        gone_us = span.moments_us - states[newest.name]["value"]
        return Finished(gone_us / float(SECOND_US), np.ones(len(gone_us), dtype=np.bool_))

    return Compiled((newest,), "float64", finish)


def _gap_mean(column: Input | None, _: float) -> Compiled:
    counter = CountPartial(None)
    oldest, newest = ExtremePartial(None, "timestamp", "min"), ExtremePartial(None, "timestamp", "max")

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        gaps = states[counter.name]["count"] - 1
        across_us = states[newest.name]["value"] - states[oldest.name]["value"]
        return Finished(across_us / (np.maximum(gaps, 1) * float(SECOND_US)), gaps > 0)

    return Compiled((counter, oldest, newest), "float64", finish)


def _distinct(column: Input | None, _: float) -> Compiled:
    assert column is not None
    pairs = PairsPartial(column.name, column.dtype, "hash", DISTINCT_EXACT_MAX + 1)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        held = unpacked(states[pairs.name])
        values = [len(each) if len(each) <= DISTINCT_EXACT_MAX else _estimated(each) for each in held]
        return Finished(np.array(values, dtype=np.int64), np.ones(len(held), dtype=np.bool_))

    return Compiled((pairs,), "int64", finish, zero_when_empty=True)


def _estimated(pairs: npt.NDArray[np.void]) -> int:
    # Hashes are spread evenly: if the n-th smallest lies at a share s of their range, there are about n / s of them.
    return round((len(pairs) - 1) * 2.0**64 / float(pairs["key"][-1]))


def _entropy(column: Input | None, _: float) -> Compiled:
    assert column is not None
    pairs = PairsPartial(column.name, column.dtype, "hash", DISTINCT_EXACT_MAX + 1)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        counts = [each["count"].astype(np.float64) for each in unpacked(states[pairs.name])]
        values = [_entropy_of(each) if len(each) else 0.0 for each in counts]
        known = [0 < len(each) <= DISTINCT_EXACT_MAX for each in counts]
        return Finished(np.array(values, dtype=np.float64), np.array(known, dtype=np.bool_))

    return Compiled((pairs,), "float64", finish)


def _entropy_of(counts: npt.NDArray[np.float64]) -> float:
    shares = counts / counts.sum()
    return abs(math.fsum((-shares * np.log2(shares)).tolist()))


def _quantile(column: Input | None, q: float) -> Compiled:
    assert column is not None
    pairs = PairsPartial(column.name, column.dtype, "bucket")

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        held = unpacked(states[pairs.name])
        buckets = np.array([_bucket_at(each, q) if len(each) else 0 for each in held], dtype=np.uint64)
        some = np.array([len(each) > 0 for each in held], dtype=np.bool_)
        return Finished(np.where(some, middles_of(buckets), 0.0), some)

    return Compiled((pairs,), "float64", finish)


def _bucket_at(pairs: npt.NDArray[np.void], q: float) -> int:
    up_to = np.cumsum(pairs["count"].astype(np.int64))
    return int(pairs["key"][np.searchsorted(up_to, int(q * (int(up_to[-1]) - 1)), side="right")])


_EXACT = "exact, rounded once"
_DISTINCT = f"exact to {DISTINCT_EXACT_MAX:,}, then 3.1 % standard error"
_ENTROPY = f"exact counts; null above {DISTINCT_EXACT_MAX:,} different values"

FUNCTIONS: dict[str, Function] = {
    "count": Function(_ALL, _count, "exact", without_column=True),
    "rate": Function(_ALL, _rate, _EXACT, without_column=True),
    "sum": Function(_NUMBERS, _sum, _EXACT),
    "mean": Function(_NUMBERS, _mean, _EXACT),
    "std": Function(_NUMBERS, _spread(ddof=1, root=True), "root of an exactly rounded variance"),
    "std_population": Function(_NUMBERS, _spread(ddof=0, root=True), "root of an exactly rounded variance"),
    "variance": Function(_NUMBERS, _spread(ddof=1, root=False), _EXACT),
    "variance_population": Function(_NUMBERS, _spread(ddof=0, root=False), _EXACT),
    "min": Function(_ORDERED, _extreme("min"), "exact"),
    "max": Function(_ORDERED, _extreme("max"), "exact"),
    "first": Function(_ALL, _edge("first"), "exact"),
    "last": Function(_ALL, _edge("last"), "exact"),
    "since_last": Function((), _since_last, _EXACT, without_column=True),
    "gap_mean": Function((), _gap_mean, _EXACT, without_column=True),
    "distinct": Function(_ALL, _distinct, _DISTINCT),
    "entropy": Function(_ALL, _entropy, _ENTROPY),
    "quantile": Function(
        ("int64", "float64"), _quantile, "within 0.8 % of the value of that rank", argument=(0.0, 1.0)
    ),
}


def described(function: str) -> tuple[str, str, str, str, str, str]:
    """Name, column types, partials, their bytes a tile (the narrowest), windows, exactness: for people."""
    entry = FUNCTIONS[function]
    column = Input("x", "float64" if "float64" in entry.accepted else "int64", True) if entry.accepted else None
    compiled = entry.build(column, 0.5)
    sizes = [
        sum(np.dtype(field.dtype).itemsize * field.count for field in partial.fields(1))
        for partial in compiled.partials
    ]
    more = " + 12 a pair" if any(partial.has_heap for partial in compiled.partials) else ""
    takes = ", ".join(entry.accepted) if entry.accepted else "events"
    if entry.accepted and entry.without_column:
        takes = f"events; {takes}"
    windows = "sliding" if compiled.needs_window else "sliding, all of time"
    names = ", ".join(partial.name for partial in compiled.partials)
    return function, takes, names, f"{sum(sizes)}{more}", windows, entry.exactness
