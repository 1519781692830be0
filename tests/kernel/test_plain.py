"""Values that the loops finish themselves, against plain Python: sums as fractions, ranges as slices of lists."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.event_time import DAY_US, MOMENT_MAX_US, as_datetime
from featurestore.kernel import Column, Events, Feature, compile_plan, fold, roll_up, values_at
from featurestore.kernel.loops.rounding import mean_rounded, sum_rounded
from featurestore.kernel.plain import PlainValues
from featurestore.kernel.values import roll_up_with_numpy
from featurestore.kernel.windows import before

TYPES = {"amount": "float64", "size": "int64", "flag": "bool", "seen": "timestamp"}
PLAIN = {
    "n": Feature("count"),
    **{
        f"{function}_{column}": Feature(function, column)
        for column, functions in {
            "amount": ("count", "sum", "mean", "min", "max"),
            "size": ("count", "sum", "mean", "min", "max"),
            "flag": ("sum", "mean"),
            "seen": ("min", "max"),
        }.items()
        for function in functions
    },
}
PLAN = compile_plan("plain", PLAIN, TYPES, frozenset({"amount", "size", "seen"}))  # type: ignore[arg-type]
HOURS = compile_plan(
    "hours",
    {name: feature.over("1h", "6h") for name, feature in PLAIN.items()},
    TYPES,  # type: ignore[arg-type]
    frozenset({"amount", "size", "seen"}),
)
HOUR_US = 3_600_000_000
ORDINARY = [0.0, -0.0, 0.01, -0.01, 19.99, 1e9, -1e9, 2.0**31 - 2.0**-22, -(2.0**30), 2.0**-64, -3 * 2.0**-64, 0.1, 1.5]
CENTS = [cents / 100 for cents in range(-500, 500)]
SIZES = [0, 1, -1, 7, 2**62, -(2**62), 2**63 - 1, -(2**63), 3_000_000_000]

words = st.one_of(
    st.integers(-9, 9),
    st.integers(-(2**127), 2**127 - 1),
    st.integers(-(2**64), 2**64),
    st.builds(int.__add__, st.sampled_from([2**53, 2**64, 2**105, 2**106, -(2**106)]), st.integers(-9, 9)),
    # Ones that lie in the middle between two floats, or beside it.
    st.builds(
        lambda head, places, more: (2 * head + 1) * 2**places + more,
        st.integers(2**52, 2**53 - 1),
        st.integers(0, 70),
        st.integers(-1, 1),
    ),
)
counts = st.one_of(st.integers(1, 9), st.integers(1, 2**31 - 1), st.sampled_from([2, 64, 2**30]))


@settings(max_examples=600, deadline=None)
@given(total=words, count=counts, exponent=st.sampled_from([0, -64]), times=st.booleans())
def test_a_sum_of_two_words_is_rounded_once(total: int, count: int, exponent: int, times: bool) -> None:
    if times and abs(total * count) < 2**127:
        # Then the quotient is exact, and often a tie.
        total *= count
    high, low = np.int64(total >> 64), np.uint64(total & (2**64 - 1))
    exactly = Fraction(total) * Fraction(2) ** exponent
    same(sum_rounded(high, low, exponent), float(exactly))
    same(mean_rounded(high, low, exponent, count), float(exactly / count))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    events=st.integers(0, 300),
    ranges=st.integers(0, 40),
    in_order=st.booleans(),
    amounts=st.sampled_from([ORDINARY, ORDINARY[:6], [0.1], [2.0**31], [1e-9, 1.5], [5e-324], [1e300, -1e300, 1.0]]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_plain_values_over_ranges_equal_those_of_slices(
    seed: int, events: int, ranges: int, in_order: bool, amounts: list[float], share: float
) -> None:
    draw = np.random.default_rng(seed)
    drawn = _drawn(draw, events, amounts, share)
    plain = PlainValues(drawn, PLAN.outputs)
    # Twice, since what is kept of the ends of one window's ranges may not be taken for another's.
    for _ in range(2):
        low, high = draw.integers(0, events + 1, (2, ranges))
        if in_order:
            # As neighbouring moments have them: few beginnings, ends that rise.
            low, high = np.sort(low) // 50 * 50, np.sort(high)
        check_ranges(drawn, plain.over(PLAN.outputs[0].window, low, high), low, high)


def check_ranges(drawn: Events, found: dict[str, Any], low: Any, high: Any) -> None:
    for output in PLAN.outputs:
        function, _, column = output.name.partition("_")
        values = _values(drawn, column) if column else [1] * len(drawn)
        if output.name not in found:
            assert column == "amount"
            assert function in ("sum", "mean")
            assert not all(map(_is_ordinary, values))
            continue
        expected = [_naive(function, values[a:b], output.aggregate.dtype) for a, b in zip(low, high, strict=True)]
        got = found[output.name]
        if output.aggregate.dtype == "timestamp":
            got = got.cast("int64")
        for ours, theirs in zip(got.to_pylist(), expected, strict=True):
            same(ours, theirs)


def _is_ordinary(value: float | None) -> bool:
    """Whether it is a multiple of 2**-64 below 2**31."""
    return value is None or (abs(value) < 2.0**31 and (Fraction(value) * 2**64).denominator == 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    events=st.integers(0, 120),
    # Many events in few tiles, and few in many.
    span_us=st.sampled_from([HOUR_US // 30, HOUR_US, 8 * HOUR_US]),
    after_us=st.integers(0, 2 * HOUR_US),
    amounts=st.sampled_from(
        [ORDINARY, CENTS, [0.1, 0.2], [2.0**62, -(2.0**62), 1.5], [2.0**62], [5e-324, 1.5], [-0.0]]
    ),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_rows_are_rolled_up_to_the_same_values(
    seed: int, events: int, span_us: int, after_us: int, amounts: list[float], share: float
) -> None:
    drawn, moment = _drawn(np.random.default_rng(seed), events, amounts, share, span_us=span_us), span_us + after_us
    for plan in (PLAN, HOURS):
        rows = [*fold([None] * 3, drawn, plan), None] if events else [None]
        ours, theirs = roll_up(tuple(rows), moment, plan), roll_up_with_numpy(rows, moment, plan)
        for name, values in theirs.items():
            assert values.equals(ours[name]), name
            assert _signs(values) == _signs(ours[name]), name


def test_no_rows_have_no_values() -> None:
    assert {len(values) for values in roll_up([], 0, PLAN).values()} == {0}


def test_a_row_that_is_no_bytes_object_is_read_as_well() -> None:
    [row] = fold([None], _drawn(np.random.default_rng(1), 20, ORDINARY, 1.0, entities=1), HOURS)
    ours = roll_up([bytearray(row), None], 6 * HOUR_US, HOURS)  # type: ignore[list-item]
    theirs = roll_up([row, None], 6 * HOUR_US, HOURS)
    assert all(values.equals(ours[name]) for name, values in theirs.items())


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1)])
def test_tiles_whose_sum_needs_more_than_two_words(signs: tuple[int, int]) -> None:
    """Each tile alone fits: 2**62 and a little stands on the rung of ordinary sums."""
    amounts = np.array([sign * 2.0**62 for sign in signs for _ in range(3)])
    times = np.arange(len(amounts)) * HOUR_US // 10
    nothing = np.zeros(len(amounts), dtype=np.int64)
    columns = {"amount": Column(amounts), "size": Column(nothing), "flag": Column(nothing > 0), "seen": Column(nothing)}
    events = Events(nothing, times, nothing.astype(np.int32), np.arange(len(amounts)), columns)
    values = roll_up(fold([None], events, HOURS), HOUR_US, HOURS)
    assert values["sum_amount_6h"].to_pylist() == [sum(amounts.tolist())]
    assert values["mean_amount_6h"].to_pylist() == [sum(amounts.tolist()) / 6]


def same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs) or {type(ours), type(theirs)} <= {float, np.float64}
    assert ours == theirs
    assert not isinstance(theirs, float) or np.signbit(ours) == np.signbit(theirs)


def _drawn(
    draw: np.random.Generator, count: int, amounts: list[float], share: float, entities: int = 3, span_us: int = HOUR_US
) -> Events:
    """Events in order, of which a share has values."""
    row, event_us = np.sort(draw.integers(0, entities, count)), draw.integers(0, span_us, count)
    order = np.lexsort((event_us, row))
    columns = {
        "amount": Column(draw.choice(amounts, count), draw.random(count) < share),
        "size": Column(draw.choice(np.array(SIZES, dtype=np.int64), count), draw.random(count) < share),
        "flag": Column(draw.random(count) < 0.5),
        "seen": Column(draw.integers(0, 2**50, count), draw.random(count) < share),
    }
    return Events(row, event_us[order], np.zeros(count, dtype=np.int32), np.arange(count), columns)


def _values(events: Events, column: str) -> list[Any]:
    held = events.columns[column]
    valid = np.ones(len(events), dtype=np.bool_) if held.valid is None else held.valid
    return [value if there else None for value, there in zip(held.values.tolist(), valid.tolist(), strict=True)]


def _naive(function: str, values: list[Any], dtype: str) -> Any:
    held = [value for value in values if value is not None]
    if function in ("n", "count"):
        return len(held)
    if not held:
        return None
    if function in ("min", "max"):
        found = min(held) if function == "min" else max(held)
        return found + 0.0 if dtype == "float64" else found
    exactly = sum(map(Fraction, held))
    if function == "mean":
        return float(exactly / len(held))
    if dtype == "float64":
        return float(exactly)
    return int(exactly) if -(2**63) <= exactly < 2**63 else None


def _signs(values: Any) -> list[bool]:
    return [bool(np.signbit(value)) for value in values.to_pylist() if isinstance(value, float)]


def test_windows_worked_on_side_by_side_have_the_same_bits() -> None:
    features = {
        kind: Feature(kind, None if kind == "count" else "amount").over("1h", "6h", "24h", before("1h", "6h"))
        for kind in ("count", "sum", "mean", "min", "max")
    }
    plan = compile_plan("v", features, {"amount": "float64"}, frozenset({"amount"}))
    draw = np.random.default_rng(3)
    amounts = Column(draw.normal(0, 1e9, 5_000), draw.random(5_000) < 0.9)
    row, at = draw.integers(0, 5, 5_000), draw.integers(0, 4 * DAY_US, 5_000)
    events = Events(row, at, np.zeros(5_000, dtype=np.int32), np.arange(5_000), {"amount": amounts})
    asked = draw.integers(0, 5, 700), draw.integers(0, 4 * DAY_US, 700)
    alone, at_once = (values_at(events, *asked, plan, threads_from=size) for size in (10**9, 0))
    assert len(alone) == 20
    for name, values in alone.items():
        assert values.equals(at_once[name]), name


def test_a_stored_moment_that_no_calendar_has_is_null_in_rows_and_join() -> None:
    features = {"newest": Feature("last", "seen"), "three": Feature("last_n", "seen", argument=3)}
    features["most"] = Feature("max", "seen")
    plan = compile_plan("seen", features, {"seen": "timestamp"}, frozenset())
    at, seen = np.array([1, 2]), np.array([MOMENT_MAX_US, MOMENT_MAX_US + 1])
    events = Events(np.zeros(2, np.int64), at, np.zeros(2, np.int32), np.arange(2), {"seen": Column(seen)})
    row = fold([None], events, plan)
    asked = (np.zeros(1, np.int64), np.full(1, 9))
    for found in (roll_up(row, 9, plan), roll_up_with_numpy(row, 9, plan), values_at(events, *asked, plan)):
        said = {name: values.to_pylist()[0] for name, values in found.items()}
        last_moment = as_datetime(MOMENT_MAX_US)
        assert said == {"newest": None, "three": [None, last_moment], "most": None}
