"""Sketches keep what they promise: buckets to their bound and in order, distinct counts exact and then estimated."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernel import Column, Events, Feature, compile_plan, fold, roll_up, values_at
from featurestore.kernel.aggregates.pairs import DISTINCT_EXACT_MAX, buckets_of, middles_of

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


@pytest.mark.parametrize("different", [DISTINCT_EXACT_MAX - 1, DISTINCT_EXACT_MAX, DISTINCT_EXACT_MAX + 1, 20_000])
def test_distinct_is_exact_to_its_bound_then_near_and_never_shows_the_order(different: int) -> None:
    plan = compile_plan(
        "v",
        {"n": Feature("distinct", "who").over("1h"), "e": Feature("entropy", "who")},
        {"who": "string"},
        frozenset(),
    )
    names = [b"%d" % number for number in range(different)] * 2
    results = []
    for seed in (1, 2):
        random.Random(seed).shuffle(names)
        rows: list[bytes | None] = [None]
        for part in range(0, len(names), 7_000):
            chunk = names[part : part + 7_000]
            texts = np.empty(len(chunk), dtype=object)
            texts[:] = chunk
            places = np.arange(len(chunk))
            events = Events(
                np.zeros(len(chunk), dtype=np.int64),
                places * 1_000,
                np.zeros(len(chunk), dtype=np.int32),
                places + part,
                {"who": Column(texts)},
            )
            rows = list(fold(rows, events, plan))
        values = roll_up(rows, 10**8, plan)
        results.append((values["n_1h"][0].as_py(), values["e"][0].as_py()))
    assert results[0] == results[1]
    count, entropy = results[0]
    if different <= DISTINCT_EXACT_MAX:
        assert count == different
        assert entropy == pytest.approx(math.log2(different))
    else:
        assert abs(count / different - 1) < 4 * 0.031
        assert entropy is None


def test_a_join_over_many_moments_of_a_hot_key_equals_each_moment_alone() -> None:
    draw = random.Random(3)
    features = {
        "n": Feature("distinct", "x").over("10us", "100us"),
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
