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


def std(column: str) -> Feature:
    """The sample standard deviation, from exact power sums; null for fewer than two values."""
    return Feature("std", column)


def min(column: str) -> Feature:
    """The smallest value."""
    return Feature("min", column)


def max(column: str) -> Feature:
    """The largest value."""
    return Feature("max", column)


def last(column: str) -> Feature:
    """The newest value that is not null; ties go to the higher partition, then offset."""
    return Feature("last", column)
