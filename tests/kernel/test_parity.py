"""Fold, roll-up and join against the naive twin: every aggregate, every window, any batches, any moment."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.kernel import Column, Events, Feature, Plan, compile_plan, decimal_type, fold, roll_up, values_at
from featurestore.kernel.aggregates.pairs import buckets_of, middles_of
from tests.kernel import naive

TYPES = {
    "amount": "float64",
    "size": "int64",
    "flag": "bool",
    "seen": "timestamp",
    "name": "string",
    "price": "decimal(18, 2)",
    "share": "decimal(3, 3)",
}
NULLABLE = frozenset({"amount", "size", "name", "seen", "price"})
WINDOWS = ("1us", "60us", "1h")
FEATURES = {
    "n": Feature("count").over(*WINDOWS),
    "n_all": Feature("count"),
    "n_amount": Feature("count", "amount").over("60us"),
    **{
        f"{function}_{column}": Feature(function, column).over(*WINDOWS)
        for function, columns in {
            "sum": ("amount", "size", "flag", "price", "share"),
            "mean": ("amount", "size", "flag", "price", "share"),
            "std": ("amount", "size", "price"),
            "std_population": ("amount", "size"),
            "variance": ("amount", "size", "share"),
            "variance_population": ("amount", "flag", "price"),
            "first": ("amount", "size", "flag", "seen", "name", "price"),
            "distinct": ("amount", "size", "flag", "seen", "name", "price"),
            "entropy": ("size", "name"),
            "rate": ("amount",),
            "min": ("amount", "size", "seen", "flag", "share", "name"),
            "max": ("amount", "size", "seen", "flag", "price", "name"),
            "last": ("amount", "size", "flag", "seen", "name", "share"),
        }.items()
        for column in columns
    },
    "events_rate": Feature("rate").over("60us", "1h"),
    "quiet": Feature("since_last").over("60us", "1h"),
    "quiet_all": Feature("since_last"),
    "gap": Feature("gap_mean").over("60us", "1h"),
    "gap_all": Feature("gap_mean"),
    "low": Feature("quantile", "amount", argument=0.1).over("60us", "1h"),
    "mid": Feature("quantile", "size", argument=0.5).over("1h"),
    "top_all": Feature("quantile", "amount", argument=1.0),
    "first_name_all": Feature("first", "name"),
    "distinct_all": Feature("distinct", "name"),
    "std_size_all": Feature("std", "size"),
    "last_name_all": Feature("last", "name"),
    "sum_coarse": Feature("sum", "amount").over("600us", slide="100us"),
}
PLAN: Plan = compile_plan("drawn", FEATURES, TYPES, NULLABLE)  # type: ignore[arg-type]
ROWS = 3

floats = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.1, 1e20, -1e20, 1e-20, 5e-324, 0.0, -0.0, 1.7e308]),
    st.integers(-1000, 1000).map(float),
)
prices = st.one_of(
    st.decimals(-(10**16) + 1, 10**16 - 1, places=2, allow_nan=False),
    st.sampled_from(
        [Decimal("9999999999999999.99"), Decimal("-9999999999999999.99"), Decimal("0.01"), Decimal("0.00")]
    ),
    st.decimals(-2, 2, places=2),
)
int64s = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9))
moments = st.one_of(
    st.integers(0, 400),
    st.sampled_from(
        [0, 59, 60, 61, 100, 2_500_000, 3_600_000_000, 3_660_000_000, 82_799_999_999, 82_800_000_000, 86_400_000_000]
    ),
)


@st.composite
def event_lists(draw: st.DrawFn) -> list[naive.Event]:
    return [
        naive.Event(
            row=draw(st.integers(0, ROWS - 1)),
            event_us=draw(moments),
            partition=draw(st.integers(0, 2)),
            offset=offset,
            values={
                "amount": draw(st.none() | floats),
                "size": draw(st.none() | int64s),
                "flag": draw(st.booleans()),
                "seen": draw(st.none() | st.integers(0, 2**52)),
                "name": draw(st.none() | st.text(max_size=5)),
                "price": draw(st.none() | prices),
                "share": draw(st.decimals(Decimal("-0.999"), Decimal("0.999"), places=3)),
            },
        )
        for offset in range(draw(st.integers(0, 12)))
    ]


def columnar(events: list[naive.Event]) -> Events:
    def column(name: str) -> Column:
        values = [e.values.get(name) for e in events]
        valid = np.array([v is not None for v in values], dtype=np.bool_)
        if TYPES[name] == "string":
            held = np.empty(len(values), dtype=object)
            held[:] = [None if v is None else v.encode() for v in values]
            return Column(held, valid)
        if (decimals := decimal_type(TYPES[name])) is not None:
            values = [None if v is None else int(v.scaleb(decimals.scale)) for v in values]
        dtype = {"float64": np.float64, "bool": np.bool_}.get(TYPES[name], np.int64)
        # What a null's slot holds means nothing: here it would show.
        filled = np.array([7 if v is None else v for v in values], dtype=dtype)
        return Column(filled, valid if name in NULLABLE else None)

    return Events(
        np.array([e.row for e in events], dtype=np.int64),
        np.array([e.event_us for e in events], dtype=np.int64),
        np.array([e.partition for e in events], dtype=np.int32),
        np.array([e.offset for e in events], dtype=np.int64),
        {name: column(name) for name in TYPES},
    )


def python_values(array: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    elif pa.types.is_list(array.type) and pa.types.is_timestamp(array.type.value_type):
        array = array.cast(pa.list_(pa.int64()))
    values: list[Any] = array.to_pylist(maps_as_pydicts="strict")
    return values


def same(got: Any, wanted: Any, name: str) -> bool:
    if name.startswith("entropy") and got is not None and wanted is not None:
        return abs(got - wanted) < 1e-12
    if isinstance(got, float) and isinstance(wanted, float):
        return got == wanted and (got != 0 or math.copysign(1, got) == math.copysign(1, wanted))
    return bool(got == wanted) and (got is None) == (wanted is None)


def twin(events: list[naive.Event], row: int, moment_us: int) -> dict[str, Any]:
    out = {}
    for name, feature in FEATURES.items():
        outputs = [o for o in PLAN.outputs if o.name == name or o.name.startswith(name + "_")]
        outputs = [o for o in outputs if (o.name == name) == (not feature.windows)]
        for output in outputs:
            if feature.windows and output.name.removeprefix(name + "_") not in {*feature.windows, "600us"}:
                continue
            inside = naive.in_window(events, row, moment_us, output.window)
            dtype = TYPES[feature.column] if feature.column else "int64"
            size_us = output.window.size_us
            found = naive.value(feature.function, feature.column, dtype, inside, moment_us, size_us, feature.argument)
            if feature.function == "quantile" and found is not None:
                # The twin knows the value itself; it is served as the middle of its bucket.
                found = float(middles_of(buckets_of(np.array([float(found)])))[0])
            out[output.name] = found
    return out


# How long after the newest event values are asked for.
LATER_US = (0, 1, 59, 61, 3_600_000_001)


@settings(max_examples=150, deadline=None)
@given(
    events=event_lists(),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    order=st.randoms(use_true_random=False),
    moments=st.lists(st.sampled_from(LATER_US), min_size=2, max_size=2, unique=True),
)
def test_rows_folded_in_any_batches_roll_up_to_the_plain_value(events, cuts, order, moments):
    shuffled = list(events)
    order.shuffle(shuffled)
    payloads: list[bytes | None] = [None] * ROWS
    edges = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            payloads = list(fold(payloads, columnar(shuffled[start:end]), PLAN))
    newest = max((e.event_us for e in events), default=0)
    for later in moments:
        got = {name: python_values(array) for name, array in roll_up(payloads, newest + later, PLAN).items()}
        for row in range(ROWS):
            for name, wanted in twin(events, row, newest + later).items():
                assert same(got[name][row], wanted, name), (name, row, later, got[name][row], wanted)


@settings(max_examples=150, deadline=None)
@given(events=event_lists(), spine=st.lists(st.tuples(st.integers(0, ROWS - 1), moments), min_size=1, max_size=6))
def test_point_in_time_values_equal_the_plain_value_at_any_moment(events, spine):
    rows = np.array([row for row, _ in spine], dtype=np.int64)
    asked = np.array([moment for _, moment in spine], dtype=np.int64)
    got = {name: python_values(array) for name, array in values_at(columnar(events), rows, asked, PLAN).items()}
    for index, (row, moment) in enumerate(spine):
        for name, wanted in twin(events, row, moment).items():
            assert same(got[name][index], wanted, name), (name, row, moment, got[name][index], wanted)


@settings(max_examples=50, deadline=None)
@given(events=event_lists(), order=st.randoms(use_true_random=False))
def test_a_row_is_the_same_bytes_whatever_the_batches(events, order):
    shuffled = list(events)
    order.shuffle(shuffled)
    at_once = fold([None] * ROWS, columnar(events), PLAN)
    one_by_one: list[bytes | None] = list(fold([None] * ROWS, columnar([]), PLAN))
    for event in shuffled:
        one_by_one = list(fold(one_by_one, columnar([event]), PLAN))
    assert [bytes(p or b"") for p in one_by_one] == at_once


@settings(max_examples=100, deadline=None)
@given(events=event_lists(), later=st.sampled_from(LATER_US))
def test_reader_and_join_give_the_same_bits(events, later):
    newest = max((e.event_us for e in events), default=0)
    served = roll_up(fold([None] * ROWS, columnar(events), PLAN), newest + later, PLAN)
    asked = np.full(ROWS, newest + later)
    joined = values_at(columnar(events), np.arange(ROWS), asked, PLAN)
    for name in served:
        assert served[name].equals(joined[name]), name


def test_the_twin_speaks_of_every_output():
    assert set(twin([], 0, 0)) == {output.name for output in PLAN.outputs}


def alone(function: str, dtype: str, values: list[Any]) -> Any:
    """One aggregate of one entity's values, through a stored row."""
    plan = compile_plan("one", {"x": Feature(function, "v")}, {"v": dtype}, frozenset())  # type: ignore[dict-item]
    held = np.array(values, dtype=np.int64 if dtype == "int64" else np.float64)
    places = np.arange(len(values))
    events = Events(places * 0, places, (places * 0).astype(np.int32), places, {"v": Column(held)})
    [value] = roll_up(fold([None], events, plan), 10**6, plan)["x"].to_pylist()
    return value


def test_a_silence_of_many_centuries_is_rounded_once():
    events = [
        naive.Event(0, us, 0, offset, {}) for offset, us in enumerate((863_996_444_251_286, 85_126_181_956_902_589))
    ]
    moment_us = 249_500_321_289_378_327
    twice = [replace(one, offset=9) for one in events]
    for some in (events[:1], events, events + twice):
        plan = compile_plan("v", {"quiet": Feature("since_last"), "gap": Feature("gap_mean")}, {}, frozenset())
        columns = replace(columnar(some), columns={})
        for got in (
            roll_up(fold([None], columns, plan), moment_us, plan),
            values_at(columns, np.array([0]), np.array([moment_us]), plan),
        ):
            for name, function in (("quiet", "since_last"), ("gap", "gap_mean")):
                assert got[name].to_pylist() == [naive.value(function, None, "int64", some, moment_us)]


def test_a_sum_of_integers_beyond_its_type_is_null_and_comes_back_within_it():
    largest = 2**63 - 1
    assert alone("sum", "int64", [largest]) == largest
    assert alone("sum", "int64", [largest, 1]) is None
    assert alone("sum", "int64", [-largest - 1, -1]) is None
    assert alone("sum", "int64", [largest, largest, -largest]) == largest
    assert alone("sum", "int64", [largest] * 5 + [-largest] * 5 + [-3]) == -3


def test_a_sum_of_floats_is_rounded_once_however_far_below_the_last_bit_lies():
    half = 2.0**-53
    for values in (
        [1.0, half],
        [1.0, half, 2.0**-120],
        [1.0, half, -(2.0**-120)],
        [1.0, 3 * half, 2.0**-300],
        [1.0, half, 5e-324],
        [2.0**60, 2.0**7, 2.0**-70],
        [-1.0, -half, -(2.0**-150)],
        [1e300, 1e-300, -1e300, 0.1],
    ):
        assert alone("sum", "float64", values) == math.fsum(values), values
        assert alone("mean", "float64", values) == naive.value(
            "mean", "v", "float64", [naive.Event(0, n, 0, n, {"v": v}) for n, v in enumerate(values)]
        )


def test_what_no_window_reaches_leaves_the_row():
    plan = compile_plan("short", {"n": Feature("count").over("60us", "600us", slide="60us")}, {}, frozenset())

    def at(times: list[int]) -> Events:
        places = np.arange(len(times))
        return Events(places * 0, np.array(times), (places * 0).astype(np.int32), places, {})

    fresh = fold([None], at([5_000, 5_100]), plan)
    aged = fold(fold([None], at(list(range(0, 4_000, 50))), plan), at([5_000, 5_100]), plan)
    assert aged == fresh
