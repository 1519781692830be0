"""An author's own aggregate: served like the others, and found out when its merge shows the order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st

from featurestore import Entity, FeatureView, OwnAggregate, Topic, aggregate
from featurestore.errors import DefinitionError, UnsupportedAggregateError
from featurestore.kernel import Column, Events, fold, roll_up
from featurestore.testing import check_aggregate

# The widest distance between two values: exact, and the same in any order.
RANGE = OwnAggregate(
    name="range",
    accepts=("float64", "int64"),
    state={"low": "<f8", "high": "<f8"},
    zero={"low": np.inf, "high": -np.inf},
    add=lambda values: {"low": values + 0.0, "high": values + 0.0},
    merge=lambda a, b: {"low": np.minimum(a["low"], b["low"]), "high": np.maximum(a["high"], b["high"])},
    finish=lambda state: state["high"] - state["low"],
)
# Adding floats one by one: the order shows in the last bits.
NAIVE_SUM = OwnAggregate(
    name="naive_sum",
    accepts=("float64",),
    state={"total": "<f8"},
    zero={"total": 0.0},
    add=lambda values: {"total": values},
    merge=lambda a, b: {"total": a["total"] + b["total"]},
    finish=lambda state: state["total"],
)
KEEPS_LEFT = OwnAggregate(
    name="keeps_left",
    accepts=("float64",),
    state={"value": "<f8"},
    zero={"value": 0.0},
    add=lambda values: {"value": values},
    merge=lambda a, b: {"value": np.where(a["value"] != 0, a["value"], b["value"])},
    finish=lambda state: state["value"],
)
BAD_ZERO = OwnAggregate(
    name="bad_zero",
    accepts=("float64",),
    state={"low": "<f8"},
    zero={"low": 0.0},
    add=lambda values: {"low": values},
    merge=lambda a, b: {"low": np.minimum(a["low"], b["low"])},
    finish=lambda state: state["low"],
)
# A value that depends on which others are asked for with it.
LOOKS_ASIDE = replace(RANGE, name="looks_aside", finish=lambda state: state["high"] - state["low"].min(initial=np.inf))
WRITES = replace(RANGE, name="writes", finish=lambda state: np.multiply(state["high"], 2, out=state["high"]))
TOO_FEW = replace(RANGE, name="too_few", finish=lambda state: state["high"].max(initial=0.0))
# Right for a few events: more are forgotten.
FORGETS = OwnAggregate(
    name="forgets",
    accepts=("float64",),
    state={"events": "<i8"},
    zero={"events": 0},
    add=lambda values: {"events": np.ones(len(values), dtype=np.int64)},
    merge=lambda a, b: {"events": np.where(a["events"] + b["events"] > 13, 0, a["events"] + b["events"])},
    finish=lambda state: state["events"].astype(np.float64),
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_an_aggregate_that_keeps_the_rules_passes() -> None:
    check_aggregate(RANGE, NUMBERS)
    check_aggregate(RANGE, st.integers(-1000, 1000), dtype="int64")


@pytest.mark.parametrize(
    ("own", "values", "told"),
    [
        (NAIVE_SUM, st.sampled_from([0.1, 0.7, 3.3, 1e9]), "any order|one by one"),
        (KEEPS_LEFT, st.floats(1, 100), "which side"),
        (BAD_ZERO, NUMBERS, "merging with zero"),
        (LOOKS_ASIDE, NUMBERS, "own state alone"),
        (WRITES, NUMBERS, "finish changes high of its state"),
        (TOO_FEW, NUMBERS, r"finish gave \(\) values"),
        (FORGETS, NUMBERS, "one by one and in pairs"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_aggregate_that_breaks_them_is_found(own: OwnAggregate, values: st.SearchStrategy[float], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_aggregate(own, values)


def test_it_is_defined_and_served_like_the_others() -> None:
    topic = Topic("payments", schema={"user": str, "at": "timestamp", "amount": float}, event_time="at")
    view = FeatureView("spread", Entity("user", key="user"), topic, {"width": aggregate(RANGE, "amount").over("1h")})
    rows = np.zeros(3, dtype=np.int64)
    amounts = {"amount": Column(np.array([3.0, -1.0, 7.5]))}
    events = Events(rows, np.array([5, 6, 7]), rows.astype(np.int32), np.arange(3), amounts)
    [value] = roll_up(fold([None], events, view.plan), 8, view.plan)["width_1h"].to_pylist()
    assert value == 8.5


def test_its_version_is_part_of_the_view() -> None:
    topic = Topic("payments", schema={"user": str, "at": "timestamp", "amount": float}, event_time="at")

    def view(own: OwnAggregate) -> FeatureView:
        return FeatureView("spread", Entity("user", key="user"), topic, {"width": aggregate(own, "amount").over("1h")})

    newer = OwnAggregate(**{**vars(RANGE), "version": 2})
    assert view(RANGE).version == view(RANGE).version != view(newer).version
    assert view(RANGE).plan.layout != view(newer).plan.layout


def test_a_column_that_it_does_not_accept_is_refused() -> None:
    topic = Topic("payments", schema={"user": str, "at": "timestamp"}, event_time="at")
    with pytest.raises(UnsupportedAggregateError, match="range of 'user' is not defined"):
        FeatureView("spread", Entity("user", key="user"), topic, {"width": aggregate(RANGE, "user")})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"gives": "float32"}, "gives 'float32'; use one of string, int64"),
        ({"zero": {"low": 0.0}}, "state and zero must name the same fields"),
        ({"state": {"low": "O", "high": "<f8"}}, "field 'low' of its state is 'O'; use a little-endian"),
        ({"state": {"low": ">f8", "high": "<f8"}}, "field 'low' of its state is '>f8'"),
        ({"state": {"low": "number", "high": "<f8"}}, "field 'low' of its state is 'number'"),
        ({"name": ""}, "its name must be letters"),
        ({"merge": 3}, "merge must be a function, not 3"),
        ({"accepts": ("text",)}, "accepts 'text'; use some of string"),
        ({"zero": {"low": "none", "high": 0.0}}, "zero of 'low' must be a '<f8'"),
        (
            {"state": {"low": "<u4", "high": "<f8"}, "zero": {"low": -1, "high": 0.0}},
            "zero of 'low' must be a '<u4'",
        ),
    ],
)
def test_a_wrong_one_cannot_exist(changed: dict[str, object], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        replace(RANGE, **changed)  # type: ignore[arg-type]  # as an author may write


def test_two_of_one_name_and_version_cannot_be_in_one_view() -> None:
    topic = Topic("payments", schema={"user": str, "at": "timestamp", "amount": float}, event_time="at")
    other = replace(RANGE, finish=lambda state: state["low"])
    features = {"width": aggregate(RANGE, "amount"), "low": aggregate(other, "amount")}
    with pytest.raises(DefinitionError, match="two aggregates 'range' of version 1"):
        FeatureView("spread", Entity("user", key="user"), topic, features)
    features["low"] = aggregate(replace(other, version=2), "amount")
    assert set(FeatureView("spread", Entity("user", key="user"), topic, features).outputs) == {"width", "low"}
