"""For authors' own tests: the kernel's properties, run on an aggregate of your own.

    from featurestore.testing import check_aggregate

    def test_my_aggregate() -> None:
        check_aggregate(PRODUCT, st.floats(0.5, 2))

Needs Hypothesis, which this package does not install.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import DefinitionError
from featurestore.kernel import Column, DataType, Events, Feature, OwnAggregate, compile_plan, fold, roll_up, values_at
from featurestore.kernel.aggregates.partial import Array

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_NUMPY = {"float64": np.float64, "bool": np.bool_}
_ROWS, _EVENTS_MAX = 2, 12
# What only many events show, such as a bound of the state, is looked for with each example's values over again.
_MANY = 64


def check_aggregate(own: OwnAggregate, values: SearchStrategy[Any], *, dtype: DataType = "float64") -> None:
    """Draw events, and assert that batches, orders and tiles never show in the aggregate's value.

    values  what the column may hold, of the column type `dtype`; of decimals whole numbers of their last digit

    Raises AssertionError with the smallest events for which a property fails:
    merging with zero changes nothing; merging is the same from both sides and in any grouping; rows folded in any
    batches, and in any order, give the same bits as the join over the events themselves, and each row the same alone.
    """
    from hypothesis import given, settings
    from hypothesis import strategies as st

    event = st.tuples(st.integers(0, _ROWS - 1), st.integers(0, 300), st.none() | values)
    features = {"short": Feature(own, "x").over("60us"), "long": Feature(own, "x").over("1h"), "all": Feature(own, "x")}
    plan = compile_plan("check_aggregate", features, {"x": dtype}, frozenset({"x"}))

    def events_of(drawn: list[tuple[int, int, Any]], offsets: list[int]) -> Events:
        held = np.array([value is not None for _, _, value in drawn], dtype=np.bool_)
        if dtype == "string":
            column = np.empty(len(drawn), dtype=object)
            column[:] = [None if value is None else value.encode() for _, _, value in drawn]
        else:
            column = np.array(
                [0 if value is None else value for _, _, value in drawn], dtype=_NUMPY.get(dtype, np.int64)
            )
        return Events(
            np.array([row for row, _, _ in drawn], dtype=np.int64),
            np.array([event_us for _, event_us, _ in drawn], dtype=np.int64),
            np.zeros(len(drawn), dtype=np.int32),
            np.array(offsets, dtype=np.int64),
            {"x": Column(column, held)},
        )

    # One failure is enough; several at once would come as a group of exceptions.
    @settings(deadline=None, report_multiple_bugs=False)
    @given(
        drawn=st.lists(event, max_size=_EVENTS_MAX),
        cuts=st.lists(st.integers(0, _EVENTS_MAX), max_size=3),
        order=st.randoms(use_true_random=False),
    )
    def holds(drawn: list[tuple[int, int, Any]], cuts: list[int], order: Any) -> None:
        _check_merge(own, [value for _, _, value in drawn if value is not None], dtype)
        numbered = list(enumerate(drawn))
        order.shuffle(numbered)
        rows: list[bytes | None] = [None] * _ROWS
        for start, end in pairwise([0, *sorted(min(cut, len(drawn)) for cut in cuts), len(drawn)]):
            part = numbered[start:end]
            if part:
                rows = list(fold(rows, events_of([one for _, one in part], [number for number, _ in part]), plan))
        moment_us = max((event_us for _, event_us, _ in drawn), default=0) + 1
        try:
            online = roll_up(rows, moment_us, plan)
        except DefinitionError as error:
            # What `finish` gives for rows without an event may have the wrong shape too.
            raise AssertionError(str(error)) from error
        spine = np.arange(_ROWS), np.full(_ROWS, moment_us)
        offline = values_at(events_of(drawn, list(range(len(drawn)))), *spine, plan)
        each = [roll_up([row], moment_us, plan) for row in rows]
        for name in online:
            left, right = online[name].to_pylist(), offline[name].to_pylist()
            alone = [one[name].to_pylist()[0] for one in each]
            assert all(map(_same, left, alone)), (
                f"{own.name} over {name}: rows together give {left}, one by one {alone}; "
                "finish must give each value from its own state alone"
            )
            assert all(map(_same, left, right)), (
                f"{own.name} over {name}: rows give {left}, events give {right}; "
                "merge must give the same bits in any order and grouping"
            )

    holds()


def _check_merge(own: OwnAggregate, values: list[Any], dtype: DataType) -> None:
    if not values:
        return
    column = np.array([value.encode() for value in values], object) if dtype == "string" else np.array(values)
    added = {name: np.asarray(each, own.state[name]) for name, each in own.add(column).items()}
    assert set(added) == set(own.state) == set(own.zero), f"{own.name}: add, state and zero name different fields"
    zero = {name: np.full(len(values), own.zero[name], kind) for name, kind in own.state.items()}
    finished = {name: each.copy() for name, each in added.items()}
    given = np.asarray(own.finish(finished))
    assert given.shape == (len(values),), f"{own.name}: finish gave {given.shape} values for {len(values)} partials"
    for name in own.state:
        assert all(map(_same, finished[name].tolist(), added[name].tolist())), (
            f"{own.name}: finish changes {name} of its state; other features read the same state, so give a new array"
        )
    turned, moved = (
        {name: each[cut] for name, each in added.items()} for cut in (np.s_[::-1], np.r_[1 : len(values), 0])
    )
    many = {name: np.resize(each, _MANY) for name, each in added.items()}
    for what, left, right in (
        ("merging with zero changes a partial", own.merge(added, zero), added),
        ("merging shows which side came first", own.merge(added, turned), own.merge(turned, added)),
        (
            "merging does not give the same bits in any order",
            own.merge(own.merge(added, moved), turned),
            own.merge(added, own.merge(moved, turned)),
        ),
        ("merging one by one and in pairs does not give the same bits", _one_by_one(own, many), _in_pairs(own, many)),
    ):
        for name, kind in own.state.items():
            one, other = (np.asarray(side[name], kind) for side in (left, right))
            assert all(map(_same, one.tolist(), other.tolist())), f"{own.name}: {what}: {name} {one} and {other}"


def _one_by_one(own: OwnAggregate, many: Mapping[str, Array]) -> Mapping[str, Array]:
    out: Mapping[str, Array] = {name: each[:1] for name, each in many.items()}
    for place in range(1, _MANY):
        out = own.merge(out, {name: each[place : place + 1] for name, each in many.items()})
    return out


def _in_pairs(own: OwnAggregate, many: Mapping[str, Array]) -> Mapping[str, Array]:
    while len(next(iter(many.values()))) > 1:
        many = own.merge(*({name: each[side::2] for name, each in many.items()} for side in (0, 1)))
    return many


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or (left == right and math.copysign(1, left) == math.copysign(1, right))
    return bool(left == right)
