"""The words for aggregates in a definition: `mean("arr_delay").over("24h", "7d")`.

Some share their name with a builtin, on purpose: inside a definition they mean the same thing.
"""

from __future__ import annotations

from featurestore.kernel import Feature


def count(column: str | None = None) -> Feature:
    """How many events there are, or how many values of a column that are not null; 0 when none."""
    return Feature("count", column)


def sum(column: str) -> Feature:
    """The exact sum, rounded once; of integers an integer, null where it passes 64 bits."""
    return Feature("sum", column)


def mean(column: str) -> Feature:
    """The mean, correctly rounded."""
    return Feature("mean", column)


def rate(column: str | None = None) -> Feature:
    """Events (or values that are not null) per second of the window; 0 when none."""
    return Feature("rate", column)


def std(column: str, *, population: bool = False) -> Feature:
    """The standard deviation, from exact power sums; of a sample null for fewer than two values."""
    return Feature("std_population" if population else "std", column)


def variance(column: str, *, population: bool = False) -> Feature:
    """The variance, from exact power sums and rounded once; of a sample null for fewer than two values."""
    return Feature("variance_population" if population else "variance", column)


def min(column: str) -> Feature:
    """The smallest value."""
    return Feature("min", column)


def max(column: str) -> Feature:
    """The largest value."""
    return Feature("max", column)


def last(column: str) -> Feature:
    """The newest value that is not null; ties go to the higher partition, then offset."""
    return Feature("last", column)


def first(column: str) -> Feature:
    """The oldest value that is not null; ties go to the lower partition, then offset."""
    return Feature("first", column)


def since_last() -> Feature:
    """Seconds from the newest event in the window to the moment of asking."""
    return Feature("since_last")


def gap_mean() -> Feature:
    """Mean seconds between one event and the next; null for fewer than two events."""
    return Feature("gap_mean")


def distinct(column: str) -> Feature:
    """How many different values; exact to 1,024, then estimated with a standard error of 3.1 %. 0 when none."""
    return Feature("distinct", column)


def entropy(column: str) -> Feature:
    """Shannon entropy of the values in bits; null above 1,024 different ones."""
    return Feature("entropy", column)


def quantile(column: str, q: float) -> Feature:
    """The value of rank floor(q * (n - 1)), to within 0.8 % of itself."""
    return Feature("quantile", column, argument=q)
