"""The compiled loops against the NumPy code that they replace: the same bytes, the same bits."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import RowLayoutError
from featurestore.kernel import (
    Column,
    Events,
    Feature,
    compile_plan,
    exact,
    fold,
    fold_pieces,
    newest_event_us,
    roll_up,
    values_at,
)
from featurestore.kernel.loops import ranges as loops
from featurestore.kernel.plan import where_of
from featurestore.kernel.ranges import ranged
from featurestore.kernel.values import fold_with_numpy, roll_up_with_numpy
from featurestore.kernel.windows import before, calendar, session, tumbling
from tests.kernel import naive
from tests.kernel.test_parity import ROWS, columnar, event_lists, floats, moments

TYPES = {
    "amount": "float64",
    "size": "int64",
    "flag": "bool",
    "seen": "timestamp",
    "name": "string",
    "price": "decimal(18, 2)",
}
NULLABLE = frozenset({"amount", "size", "name", "seen", "price"})
WINDOWS = ("60us", "1h", before("60us", "600us"), tumbling("100us"), calendar("day", "Europe/Berlin"))
# Everything that has a fixed width, so that the loops do it.
PACKED = {
    "n": Feature("count").over(*WINDOWS),
    "n_all": Feature("count"),
    "n_name": Feature("count", "name").over("1h"),
    **{
        f"{function}_{column}": Feature(function, column).over(*WINDOWS)
        for function, columns in {
            "sum": ("amount", "size", "flag", "price"),
            "mean": ("amount", "size", "price"),
            "std": ("amount", "size"),
            "kurtosis": ("amount", "size"),
            "first": ("amount", "size", "flag", "seen"),
            "last": ("amount", "size", "flag", "seen", "price"),
            "min": ("amount", "size", "seen", "price"),
            "max": ("amount", "size", "seen", "flag"),
        }.items()
        for column in columns
    },
    "together": Feature("covariance", "amount", other="size").over("1h"),
    "quiet": Feature("since_last").over("1h"),
    "gap": Feature("gap_mean").over("60us"),
    "some": Feature("sum", "amount", where=where_of("some", pl.col("size") > 0)).over("1h"),
}
PLAN = compile_plan("packed", PACKED, TYPES, NULLABLE)  # type: ignore[arg-type]
IN_SESSION = compile_plan(
    "in_session",
    {"n": Feature("sum", "amount").over(session("100us", longest="10ms"))},
    TYPES,
    NULLABLE,  # type: ignore[arg-type]
)


# Behind layout, newest event time, and how many tiles each level has.
RUNGS_AT = 12 + 4 * len(PLAN.levels)


def batches(events: list[naive.Event], cuts: list[int]) -> list[list[naive.Event]]:
    edges = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    return [events[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=60, deadline=None)
@given(
    events=event_lists(),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    order=st.randoms(use_true_random=False),
    moment=moments,
)
@pytest.mark.parametrize("plan", [PLAN, IN_SESSION], ids=["windows", "session"])
def test_rows_and_values_are_the_same(plan, events, cuts, order, moment) -> None:  # type: ignore[no-untyped-def]
    assert plan.program is not None
    order.shuffle(events)
    ours: list[bytes | None] = [None] * ROWS
    theirs = ours
    for batch in batches(events, cuts):
        tagged = [None if row is None else b"a token of 16 by" + row for row in ours]
        ours = list(fold(ours, columnar(batch), plan))
        assert list(fold_pieces(tagged, columnar(batch), plan, skip=16)) == ours
        theirs = list(fold_with_numpy(theirs, columnar(batch), plan))
        assert ours == theirs
    asked = max([moment, *(event.event_us for event in events)])
    rows = [*ours, None]
    left, right = roll_up(rows, asked, plan), roll_up_with_numpy(rows, asked, plan)
    for name in left:
        assert left[name].equals(right[name]), name
    newest = [max((event.event_us for event in events if event.row == row), default=None) for row in range(len(rows))]
    assert newest_event_us(rows, plan) == newest


def test_many_rows_of_many_shapes() -> None:
    """More rows than a chunk, more events than are put in place one by one, sums of every width side by side."""
    draw = np.random.default_rng(11)
    count, rows = 20_000, 700
    amounts = np.round(draw.normal(0, 100, count), 2) * draw.choice([1, 1, 1, 1e12, 1e-12, 1e200], count)
    sizes = draw.integers(-(2**63), 2**63 - 1, count)
    row = np.minimum(draw.geometric(0.01, count) - 1, rows - 1)
    columns = {
        "amount": Column(amounts, draw.random(count) < 0.9),
        "size": Column(sizes, draw.random(count) < 0.9),
        "flag": Column(draw.random(count) < 0.5),
        "seen": Column(draw.integers(0, 2**50, count), draw.random(count) < 0.5),
        "name": Column(np.full(count, b"x", dtype=object), draw.random(count) < 0.5),
        "price": Column(draw.integers(-(10**18) + 1, 10**18, count), draw.random(count) < 0.9),
    }
    whole = Events(row, draw.integers(0, 7_200_000_000, count), np.zeros(count, np.int32), np.arange(count), columns)
    ours: list[bytes | None] = [None] * rows
    theirs = ours
    for start in range(0, count, 5_000):
        some = whole.take(np.arange(start, start + 5_000))
        ours, theirs = list(fold(ours, some, PLAN)), list(fold_with_numpy(theirs, some, PLAN))
        assert ours == theirs
    moment = 7_200_000_000
    left, right = roll_up(ours, moment, PLAN), roll_up_with_numpy(theirs, moment, PLAN)
    at_events = values_at(whole, np.arange(rows), np.full(rows, moment), PLAN)
    for name in left:
        assert left[name].equals(right[name]), name
        assert left[name].equals(at_events[name]), name


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: row[:-1],
        lambda row: row[:-4],
        lambda row: row + b"\0" * 4,
        lambda row: b"\xff" + row[1:],
        lambda row: row[:9],
        lambda row: row[:RUNGS_AT] + b"\xff" + row[RUNGS_AT + 1 :],
    ],
)
def test_a_damaged_row_is_refused(damage) -> None:  # type: ignore[no-untyped-def]
    events = columnar([naive.Event(0, 5, 0, 0, {"amount": 1.5, "size": 2, "flag": True, "seen": 3, "name": "a"})])
    [row] = fold([None], events, PLAN)
    with pytest.raises(RowLayoutError):
        fold([damage(row)], events, PLAN)
    with pytest.raises(RowLayoutError):
        roll_up([damage(row)], 6, PLAN)


@pytest.mark.parametrize("damage", [lambda row: b"\xff" + row[1:], lambda row: row[:9], lambda row: b""])
def test_the_newest_event_of_a_damaged_beginning_is_refused(damage) -> None:  # type: ignore[no-untyped-def]
    events = columnar([naive.Event(0, 5, 0, 0, {"amount": 1.5, "size": 2, "flag": True, "seen": 3, "name": "a"})])
    [row] = fold([None], events, PLAN)
    with pytest.raises(RowLayoutError):
        newest_event_us([None, damage(row)], PLAN)


@settings(max_examples=300, deadline=None)
@given(values=st.lists(floats, min_size=1, max_size=8), counts=st.integers(1, 2**31 - 1), power=st.integers(1, 3))
def test_sums_and_means_are_rounded_alike(values: list[float], counts: int, power: int) -> None:
    digits = exact.lift_floats(np.array(values), power)
    digits = np.concatenate([digits, -digits, digits.sum(axis=0, keepdims=True)])
    same(exact.to_floats(digits, power), exact.to_floats_with_numpy(digits, power))
    if power == 1:
        divisors = np.full(len(digits), counts)
        same(exact.means(digits, divisors), exact.means_with_numpy(digits, divisors))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_ranges_are_merged_alike(data: st.DataObject) -> None:
    drawn = data.draw(st.lists(event_lists(), min_size=1, max_size=6))
    listed = [event for part in drawn for event in part]
    if not listed:
        return
    events = PLAN.prepare(columnar(listed).sorted())
    low = np.array(data.draw(st.lists(st.integers(0, len(listed) - 1), min_size=1, max_size=10)))
    high = np.array([data.draw(st.integers(int(each) + 1, len(listed))) for each in low])
    for level in PLAN.levels:
        for partial in level.partials:
            plain, fast = partial.over(partial.lift(events), low, high), ranged(partial, events)(low, high)
            for name in plain:
                if name == "digits":
                    same(
                        exact.to_floats(plain[name], partial.power), exact.to_floats(fast[name], partial.power)
                    ) if hasattr(partial, "power") else None
                elif name == "value" and "event_us" in plain:
                    assert (plain[name] == fast[name]).all()
                else:
                    same(plain[name], fast[name])


@given(
    events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=30),
    asked=st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 10)), max_size=30),
    after=st.booleans(),
)
def test_places_are_where_bisection_finds_them(events, asked, after) -> None:  # type: ignore[no-untyped-def]
    events.sort()
    row, us = (np.array([event[part] for event in events], dtype=np.int64) for part in (0, 1))
    asked_row, asked_us = (np.array([each[part] for each in asked], dtype=np.int64) for part in (0, 1))
    out = np.empty(len(asked), dtype=np.int64)
    loops.places(row, us, asked_row, asked_us, after, out)
    assert out.tolist() == [sum(e < a or (after and e == a) for e in events) for a in asked]


def same(left: np.ndarray, right: np.ndarray) -> None:  # type: ignore[type-arg]
    assert left.dtype == right.dtype
    assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("far_below", [2.0**-30, 2.0**-60, 2.0**-200, 5e-324])
@pytest.mark.parametrize("count", [1, 3])
def test_a_tie_is_broken_by_whatever_lies_below(far_below: float, count: int) -> None:
    for sign in (1.0, -1.0):
        # 2**53 + 1 lies in the middle between two floats.
        values = [sign * count * 2.0**53, sign * count, sign * far_below]
        digits = exact.lift_floats(np.array(values), 1).sum(axis=0, keepdims=True)
        exactly = sum(map(Fraction, values))
        assert exact.to_floats(digits, 1).tolist() == [float(exactly)]
        assert exact.to_floats_with_numpy(digits, 1).tolist() == [float(exactly)]
        assert exact.means(digits, np.array([count])).tolist() == [float(exactly / count)]
        assert exact.means_with_numpy(digits, np.array([count])).tolist() == [float(exactly / count)]


def test_windows_begin_and_end_at_the_same_tiles() -> None:
    """Moments one after another, so that each edge of each window is met by some event's tile, and no two are alike."""
    events = [
        naive.Event(0, at, 0, at, {"amount": at**1.5, "size": at * at, "flag": at % 3 == 0, "seen": at, "name": "a"})
        for at in range(0, 900, 7)
    ]
    for moment in range(100, 900, 37):
        listed = [event for event in events if event.event_us <= moment]
        rows = fold([None], columnar(listed), PLAN)
        left, right = roll_up(rows, moment, PLAN), roll_up_with_numpy(rows, moment, PLAN)
        assert {name: each.to_pylist() for name, each in left.items()} == {
            name: each.to_pylist() for name, each in right.items()
        }
