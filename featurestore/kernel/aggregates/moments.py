"""Sum, mean and all that power sums give: spread, shape, and how two columns go together. Exact until the last step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from featurestore.event_time import SECOND_US
from featurestore.kernel import exact
from featurestore.kernel.aggregates.compiled import Ask, Builder, Compiled, Finished, Span, given
from featurestore.kernel.aggregates.counting import counter_of
from featurestore.kernel.aggregates.partial import Input, Partial, State
from featurestore.kernel.aggregates.sums import ProductPartial, SumPartial
from featurestore.kernel.decimals import decimal_type, scale_of


def total(ask: Ask) -> Compiled:
    column = given(ask.column)
    counter, added = counter_of(column), SumPartial(column.name, column.dtype)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        some, digits = states[counter.name]["count"] > 0, states[added.name]["digits"]
        if column.dtype == "float64":
            return Finished(exact.to_floats(digits, 1), some)
        if decimals is not None:
            return Finished(exact.to_words(digits), some)
        values, fits = exact.to_ints(digits)
        return Finished(values, some & fits)

    decimals = decimal_type(column.dtype)
    kind = "float64" if column.dtype == "float64" else "int64" if decimals is None else decimals.summed.text
    return Compiled((counter, added), kind, finish, plain="sum")


def mean(ask: Ask) -> Compiled:
    column = given(ask.column)
    counter, added = counter_of(column), SumPartial(column.name, column.dtype)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        counts, scale = states[counter.name]["count"], scale_of(column.dtype)
        return Finished(exact.means(states[added.name]["digits"], np.maximum(counts, 1), scale), counts > 0)

    return Compiled((counter, added), "float64", finish, plain="mean")


def spread(*, ddof: int, root: bool) -> Builder:
    """Variance or deviation, of a sample (ddof 1, null for one value) or of a population (ddof 0)."""

    def build(ask: Ask) -> Compiled:
        column = given(ask.column)
        counter = counter_of(column)
        added, squares = SumPartial(column.name, column.dtype), SumPartial(column.name, column.dtype, power=2)

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            counts = states[counter.name]["count"]
            sums, powers = states[added.name]["digits"], states[squares.name]["digits"]
            scale = scale_of(column.dtype)
            found = np.maximum(exact.variances(sums, powers, np.maximum(counts, ddof + 1), ddof, scale), 0.0)
            return Finished(np.sqrt(found) if root else found, counts > ddof)

        return Compiled((counter, added, squares), "float64", finish)

    return build


def shape(powers: int) -> Builder:
    """Skewness (from three power sums) or excess kurtosis (from four), of a population; null where all are equal."""

    def build(ask: Ask) -> Compiled:
        column = given(ask.column)
        counter = counter_of(column)
        sums = tuple(SumPartial(column.name, column.dtype, power) for power in range(1, powers + 1))

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            counts = states[counter.name]["count"].tolist()
            # Shape does not depend on the unit, so of decimals that of their last digit will do.
            added = [exact.wholes(states[each.name]["digits"], each.power) for each in sums]
            found = [
                (_skewness if powers == 3 else _kurtosis)(n, *each)
                for n, each in zip(counts, zip(*added, strict=True), strict=True)
            ]
            return _some(found)

        return Compiled((counter, *sums), "float64", finish)

    return build


def together(which: str) -> Builder:
    """Covariance or correlation of two columns."""

    def build(ask: Ask) -> Compiled:
        left, right = given(ask.column), given(ask.other)
        sums = _Pair(left, right)

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            return _some([(_covariance if which == "covariance" else _correlation)(*each) for each in sums.of(states)])

        return Compiled(sums.partials, "float64", finish)

    return build


def trend(ask: Ask) -> Compiled:
    """The slope of a column over event time, in its unit a second."""
    sums = _Pair(ask.time, given(ask.column))

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        return _some([_slope(*each) for each in sums.of(states)])

    return Compiled(sums.partials, "float64", finish)


class _Pair:
    """The sums of two columns, of their squares and of their product."""

    def __init__(self, left: Input, right: Input) -> None:
        self._counter = counter_of(right)
        self._sums = tuple(SumPartial(each.name, each.dtype, power) for power in (1, 2) for each in (left, right))
        self._product = ProductPartial(left, right)
        self._units = tuple(10 ** scale_of(each.dtype) for each in (left, right))

    @property
    def partials(self) -> tuple[Partial, ...]:
        return (self._counter, *self._sums, self._product)

    def of(self, states: Mapping[str, State]) -> Iterator[tuple[Any, ...]]:
        """(n, sum x, sum y, sum xx, sum yy, sum xy) of each."""
        counts = states[self._counter.name]["count"].tolist()
        x, y = self._units
        sums = [
            _in_units(exact.wholes(states[each.name]["digits"], each.power), below)
            for each, below in zip(self._sums, (x, y, x * x, y * y), strict=True)
        ]
        products = exact.wholes(states[self._product.name]["digits"], 2)
        return zip(counts, *sums, _in_units(products, x * y), strict=True)


def _skewness(n: int, s1: Fraction, s2: Fraction, s3: Fraction) -> float | None:
    below = n * s2 - s1 * s1
    if not below:
        return None
    above = n * n * s3 - 3 * n * s1 * s2 + 2 * s1**3
    # Its square is a fraction, so only the root is rounded after it.
    return _signed(math.sqrt(_float(above * above / below**3)), above)


def _kurtosis(n: int, s1: Fraction, s2: Fraction, s3: Fraction, s4: Fraction) -> float | None:
    below = n * s2 - s1 * s1
    if not below:
        return None
    above = n * (n * n * s4 - 4 * n * s1 * s3 + 6 * s1 * s1 * s2) - 3 * s1**4
    return _float(above / (below * below) - 3)


def _covariance(n: int, x: Fraction, y: Fraction, xx: Fraction, yy: Fraction, xy: Fraction) -> float | None:
    return _float((n * xy - x * y) / (n * (n - 1))) if n > 1 else None


def _correlation(n: int, x: Fraction, y: Fraction, xx: Fraction, yy: Fraction, xy: Fraction) -> float | None:
    below = (n * xx - x * x) * (n * yy - y * y)
    if not below:
        return None
    above = n * xy - x * y
    return _signed(math.sqrt(_float(above * above / below)), above)


def _slope(n: int, x: Fraction, y: Fraction, xx: Fraction, yy: Fraction, xy: Fraction) -> float | None:
    below = n * xx - x * x
    return _float((n * xy - x * y) * SECOND_US / below) if below else None


def _in_units(sums: list[Fraction], below: int) -> list[Fraction]:
    return sums if below == 1 else [each / below for each in sums]


def _float(exactly: Fraction) -> float:
    try:
        return float(exactly)
    except OverflowError:
        return _signed(math.inf, exactly)


def _signed(value: float, like: Fraction) -> float:
    # A fraction may be too large to become a float, even for its sign alone.
    return -value if like < 0 else value


def _some(found: list[float | None]) -> Finished:
    valid = np.array([each is not None for each in found], dtype=np.bool_)
    return Finished(np.array([0.0 if each is None else each for each in found], dtype=np.float64), valid)
