"""Two events that differ in one thing alone: which one counts may not depend on the order in which they came."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from featurestore.kernel import Column, Events, Feature, Plan, compile_plan, fold, roll_up, values_at

# Rows with a text go through NumPy, those without through the compiled loops.
BESIDE = {"packed": {}, "in_numpy": {"text": Feature("last", "s")}}


def plan_of(beside: str, **features: Feature) -> Plan:
    return compile_plan("v", {**features, **BESIDE[beside]}, {"x": "float64", "s": "string"}, frozenset({"x", "s"}))


def events_of(drawn: list[tuple[int, int, int, float]]) -> Events:
    """(event_us, partition, offset, x) each."""
    event_us, partition, offset, x = (np.array(each) for each in zip(*drawn, strict=True))
    texts = np.array([b"s"] * len(drawn), dtype=object)
    columns = {"x": Column(x.astype(np.float64)), "s": Column(texts)}
    return Events(np.zeros(len(drawn), dtype=np.int64), event_us, partition.astype(np.int32), offset, columns)


def everywhere(plan: Plan, drawn: list[tuple[int, int, int, float]]) -> list[dict[str, float]]:
    """What is served after any order of the events, one by one and together, and what the join gives."""
    out = []
    for order in permutations(drawn):
        rows: list[bytes | None] = [None]
        for one in order:
            rows = list(fold(rows, events_of([one]), plan))
        for held in (rows, fold([None], events_of(list(order)), plan)):
            out.append(roll_up(held, 100, plan))
        out.append(values_at(events_of(list(order)), np.array([0]), np.array([100]), plan))
    return [{name: values[0].as_py() for name, values in each.items()} for each in out]


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("zeros", [(-0.0,), (-0.0, 0.0), (0.0, -0.0)])
def test_zero_has_no_sign_in_min_and_max(beside: str, zeros: tuple[float, ...]) -> None:
    plan = plan_of(beside, low=Feature("min", "x"), high=Feature("max", "x"))
    for served in everywhere(plan, [(10 + place, 0, place, zero) for place, zero in enumerate(zeros)]):
        assert [math.copysign(1, served[name]) for name in ("low", "high")] == [1, 1]


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize(
    ("one", "other"),
    [((10, 0, 7), (11, 0, 6)), ((10, 0, 7), (10, 1, 7)), ((10, 0, 9), (10, 1, 3)), ((10, 1, 7), (10, 1, 8))],
    ids=["event time", "partition", "partition before offset", "offset"],
)
def test_first_and_last_go_by_event_time_then_partition_then_offset(
    beside: str, one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    plan = plan_of(beside, first=Feature("first", "x"), last=Feature("last", "x"))
    for served in everywhere(plan, [(*one, 1.0), (*other, 2.0)]):
        assert (served["first"], served["last"]) == (1.0, 2.0)
