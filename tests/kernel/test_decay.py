"""Decayed values beyond the largest float: infinite like every sum, null where there is no sum, and never a warning."""

from __future__ import annotations

import numpy as np
import pytest

from featurestore.kernel import Column, Events, Feature, compile_plan, fold, roll_up, values_at

MOST = 1.7e308
SECOND_US = 1_000_000
PLAN = compile_plan(
    "v",
    {name: Feature(name, "x", argument=SECOND_US) for name in ("decayed_sum", "decayed_mean")},
    {"x": "float64"},
    frozenset(),
)


def values_of(amounts: list[float], times: list[int]) -> dict[str, list[float | None]]:
    count = np.arange(len(amounts))
    events = Events(count * 0, np.array(times), (count * 0).astype(np.int32), count, {"x": Column(np.array(amounts))})
    moment_us = max(times)
    served = roll_up(fold([None], events, PLAN), moment_us, PLAN)
    joined = values_at(events, np.zeros(1, int), np.array([moment_us]), PLAN)
    assert {name: each.to_pylist() for name, each in served.items()} == {n: a.to_pylist() for n, a in joined.items()}
    return {name: each.to_pylist() for name, each in served.items()}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_float64_is_infinite(sign: int) -> None:
    found = values_of([sign * MOST, sign * MOST], [0, 0])
    assert found == {"decayed_sum": [sign * np.inf], "decayed_mean": [sign * np.inf]}
    # One of them alone is held, although its tile ends, and is weighed, after the moment.
    assert values_of([sign * MOST], [0])["decayed_sum"] == [pytest.approx(sign * MOST)]


def test_infinite_parts_of_both_signs_are_null() -> None:
    amounts, times = [MOST] * 20 + [-MOST] * 20, [0] * 20 + [3 * SECOND_US] * 20
    assert values_of(amounts, times) == {"decayed_sum": [None], "decayed_mean": [None]}
