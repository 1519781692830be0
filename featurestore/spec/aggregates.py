"""The words for aggregates in a definition: `mean("arr_delay").over("24h", "7d")`.

Some share their name with a builtin, on purpose: inside a definition they mean the same thing. Every one of them takes
`where`, a Polars expression over the event: only events for which it is true count.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from featurestore.errors import DefinitionError
from featurestore.event_time import duration_us
from featurestore.kernel import Feature, OwnAggregate, where_of


def count(column: str | None = None, *, where: Any = None) -> Feature:
    """How many events there are, or how many values of a column that are not null; 0 when none."""
    return _feature("count", column, where)


def rate(column: str | None = None, *, where: Any = None) -> Feature:
    """Events (or values that are not null) per second of the window; 0 when none."""
    return _feature("rate", column, where)


def sum(column: str, *, where: Any = None) -> Feature:
    """The exact sum, rounded once; of integers an integer, null where it passes 64 bits; of decimals a decimal."""
    return _feature("sum", column, where)


def mean(column: str, *, where: Any = None) -> Feature:
    """The mean, correctly rounded."""
    return _feature("mean", column, where)


def std(column: str, *, population: bool = False, where: Any = None) -> Feature:
    """The standard deviation, from exact power sums; of a sample null for fewer than two values."""
    return _feature("std_population" if population else "std", column, where)


def variance(column: str, *, population: bool = False, where: Any = None) -> Feature:
    """The variance, from exact power sums and rounded once; of a sample null for fewer than two values."""
    return _feature("variance_population" if population else "variance", column, where)


def skewness(column: str, *, where: Any = None) -> Feature:
    """The skewness of the values (of a population); null where all are equal."""
    return _feature("skewness", column, where)


def kurtosis(column: str, *, where: Any = None) -> Feature:
    """The excess kurtosis of the values (of a population; 0 for a normal one); null where all are equal."""
    return _feature("kurtosis", column, where)


def covariance(column: str, other: str, *, where: Any = None) -> Feature:
    """The sample covariance of two columns, over events that have both; null for fewer than two."""
    return _feature("covariance", column, where, other=other)


def correlation(column: str, other: str, *, where: Any = None) -> Feature:
    """Pearson's correlation of two columns, over events that have both; null where one of them never changes."""
    return _feature("correlation", column, where, other=other)


def trend(column: str, *, where: Any = None) -> Feature:
    """The least-squares slope of a column over event time, in its unit a second; null for events of one time."""
    return _feature("trend", column, where)


def min(column: str, *, where: Any = None) -> Feature:
    """The smallest value; of texts the first by code points, of truths whether all are."""
    return _feature("min", column, where)


def max(column: str, *, where: Any = None) -> Feature:
    """The largest value; of texts the last by code points, of truths whether any is."""
    return _feature("max", column, where)


def first(column: str, *, where: Any = None) -> Feature:
    """The oldest value that is not null; ties go to the lower partition, then offset."""
    return _feature("first", column, where)


def last(column: str, *, where: Any = None) -> Feature:
    """The newest value that is not null; ties go to the higher partition, then offset."""
    return _feature("last", column, where)


def first_n(column: str, n: int, *, distinct: bool = False, where: Any = None) -> Feature:
    """The oldest n values, oldest first; with `distinct` each value once, where it came first."""
    return _feature("first_n_distinct" if distinct else "first_n", column, where, argument=n)


def last_n(column: str, n: int, *, distinct: bool = False, where: Any = None) -> Feature:
    """The newest n values, newest first; with `distinct` each value once, where it came last."""
    return _feature("last_n_distinct" if distinct else "last_n", column, where, argument=n)


def since_last(*, where: Any = None) -> Feature:
    """Seconds from the newest event in the window to the moment of asking."""
    return _feature("since_last", None, where)


def gap_mean(*, where: Any = None) -> Feature:
    """Mean seconds between one event and the next; null for fewer than two events."""
    return _feature("gap_mean", None, where)


def distinct(column: str, *, where: Any = None) -> Feature:
    """How many different values; exact to 512, then estimated with a standard error of 1.15 %. 0 when none."""
    return _feature("distinct", column, where)


def entropy(column: str, *, where: Any = None) -> Feature:
    """Shannon entropy of the values in bits; null above 1,024 different ones."""
    return _feature("entropy", column, where)


def values(column: str, *, where: Any = None) -> Feature:
    """The different values, in rising order; null above 1,024 of them."""
    return _feature("values", column, where)


def top_k(column: str, k: int, *, where: Any = None) -> Feature:
    """The k most frequent values, most frequent first, then the smaller first; null above 1,024 different ones."""
    return _feature("top_k", column, where, argument=k)


def counts(column: str, *, where: Any = None) -> Feature:
    """How often each category came: a map from value to count; null above 1,024 categories."""
    return _feature("counts", column, where)


def quantile(column: str, q: float, *, where: Any = None) -> Feature:
    """The value of rank floor(q * (n - 1)), to within 0.8 % of itself."""
    return _feature("quantile", column, where, argument=q)


def decayed_sum(column: str, half_life: str | timedelta | int, *, where: Any = None) -> Feature:
    """The sum of values that each lose half their weight every half-life; without a window 64 half-lives back."""
    return _feature("decayed_sum", column, where, argument=duration_us(half_life))


def decayed_mean(column: str, half_life: str | timedelta | int, *, where: Any = None) -> Feature:
    """The mean of values that each lose half their weight every half-life; without a window 64 half-lives back."""
    return _feature("decayed_mean", column, where, argument=duration_us(half_life))


def ratio(above: Feature, below: Feature) -> Feature:
    """One aggregate divided by another over the same window; null where the one below is 0 or null."""
    return Feature("ratio", parts=(above, below))


def aggregate(own: OwnAggregate, column: str, *, where: Any = None) -> Feature:
    """An aggregate of your own."""
    if not isinstance(own, OwnAggregate):
        raise DefinitionError(f"aggregate({own!r}, {column!r}): give an OwnAggregate, not a name")
    return Feature(own, column, where=where_of(own.name, where))


def _feature(
    function: str, column: str | None, where: Any, *, other: str | None = None, argument: float | None = None
) -> Feature:
    return Feature(function, column, other=other, argument=argument, where=where_of(function, where))
