"""Pairs keep what they promise: buckets to their bound and in order, exact counts or none."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernel import Column, Events, Feature, compile_plan, fold, roll_up, values_at
from featurestore.kernel.aggregates.pairs import BUCKETS_MAX, VALUES_MAX, buckets_of, middles_of
from featurestore.kernel.logarithm import log2

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(FLOATS)
def test_the_middle_of_a_bucket_is_near_each_number_in_it(value: float) -> None:
    [middle] = middles_of(buckets_of(np.array([value]))).tolist()
    # Below the normal numbers the bound is absolute: there are no bits left to be relative to.
    assert abs(middle - value) <= max(abs(value) / 128, 2.0**-1022)
    assert value == 0 or middle == 0 or math.copysign(1, middle) == math.copysign(1, value)


@given(st.lists(FLOATS, min_size=2, max_size=20))
def test_buckets_rise_with_the_numbers(values: list[float]) -> None:
    buckets = buckets_of(np.array(sorted(values))).tolist()
    assert all(low <= high for low, high in itertools.pairwise(buckets))


def test_a_join_over_many_moments_of_a_hot_key_equals_each_moment_alone() -> None:
    draw = random.Random(3)
    features = {
        "n": Feature("distinct", "x").over("10us", "100us"),
        "e": Feature("entropy", "x").over("100us"),
        "q": Feature("quantile", "x", argument=0.7).over("50us"),
    }
    plan = compile_plan("v", features, {"x": "int64"}, frozenset())
    total = 500
    columns = {"x": Column(np.array([draw.randrange(40) for _ in range(total)], dtype=np.int64))}
    times = np.sort(np.array([draw.randrange(600) for _ in range(total)], dtype=np.int64))
    rows = np.array([draw.randrange(2) for _ in range(total)], dtype=np.int64)
    events = Events(rows, times, np.zeros(total, dtype=np.int32), np.arange(total), columns)
    asked_row = np.array([draw.randrange(3) for _ in range(200)], dtype=np.int64)
    asked_us = np.array([draw.randrange(-5, 700) for _ in range(200)], dtype=np.int64)
    together = values_at(events, asked_row, asked_us, plan)
    for place in range(200):
        alone = values_at(events, asked_row[place : place + 1], asked_us[place : place + 1], plan)
        for name in together:
            assert together[name][place] == alone[name][0]


def test_values_that_left_a_sliding_window_do_not_count_towards_its_bound() -> None:
    total, features = VALUES_MAX + 100, {"e": Feature("entropy", "x").over("7us")}
    at = np.arange(total)
    events = Events(at * 0, at, (at * 0).astype(np.int32), at, {"x": Column(at)})
    asked_us = at[7:]
    values = values_at(events, asked_us * 0, asked_us, compile_plan("v", features, {"x": "int64"}, frozenset()))
    assert values["e_7us"].to_pylist() == [3.0] * len(asked_us)


@pytest.mark.parametrize("over", [0, 1])
def test_more_different_values_than_the_bound_are_null_in_any_order(over: int) -> None:
    features = {"e": Feature("entropy", "x"), "q": Feature("quantile", "y", argument=0.5)}
    plan = compile_plan("v", features, {"x": "int64", "y": "float64"}, frozenset())
    names = np.tile(np.arange(VALUES_MAX + over), 2)
    # Numbers of different buckets: 64 of them between a number and its double.
    numbers = np.ldexp(1 + np.arange(64) / 64, np.arange(BUCKETS_MAX // 64 + 1)[:, None]).ravel()[: BUCKETS_MAX + over]
    count = len(numbers)
    found = []
    for seed in (1, 2):
        order = np.random.default_rng(seed).permutation(count)
        x, y = np.resize(names, count)[order], numbers[order]
        events = Events(order * 0, order, (order * 0).astype(np.int32), order, {"x": Column(x), "y": Column(y)})
        rows: list[bytes | None] = [None]
        for start in range(0, count, 1_000):
            rows = list(fold(rows, events.take(np.arange(start, min(start + 1_000, count))), plan))
        served, joined = (
            {name: array.to_pylist() for name, array in values.items()}
            for values in (roll_up(rows, count, plan), values_at(events, np.zeros(1, int), np.array([count]), plan))
        )
        assert served == joined
        found.append((rows, served))
    assert found[0] == found[1]
    assert [found[0][1][name] == [None] for name in ("e", "q")] == [bool(over)] * 2
    assert not over or len(rows[0] or b"") < 100


@given(st.lists(st.floats(1e-300, 1e300), min_size=1))
def test_logarithms_are_near_and_of_powers_of_two_exact(values: list[float]) -> None:
    for value, found in zip(values, log2(np.array(values)).tolist(), strict=True):
        assert abs(found - math.log2(value)) <= 4e-16 * max(1.0, abs(found))
    assert log2(np.array([0.25, 1.0, 1024.0])).tolist() == [-2.0, 0.0, 10.0]
