"""Every aggregate over every window, from the catalogue itself: the plain definition, or refused with a reason."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import UnsupportedAggregateError
from featurestore.kernel import Feature, Plan, compile_plan, fold, roll_up, values_at, where_of
from featurestore.kernel.aggregates.catalogue import FUNCTIONS
from featurestore.kernel.aggregates.pairs import buckets_of, middles_of
from featurestore.kernel.events import family
from featurestore.kernel.windows import Window, before, calendar, newest, session, tumbling
from tests.kernel import naive
from tests.kernel.test_parity import NULLABLE, ROWS, TYPES, columnar, event_lists, moments, python_values, same

WINDOWS: dict[str, tuple[str | Window, ...]] = {
    "sliding": ("60us",),
    "long": ("1h",),
    "shifted": (before("50us", "600us"),),
    "shifted exactly": (before("7us", "50us", slide="1us"),),
    "tumbling": (tumbling("100us"),),
    "tumbling before": (tumbling("100us", ago=1),),
    "hour": (calendar("hour", "Asia/Kathmandu"),),
    "day before": (calendar("day", "Europe/Berlin", ago=1),),
    "month": (calendar("month"),),
    "session": (session("30us", longest="300us"),),
    "newest": (newest(3),),
    "all of time": (),
}
ARGUMENTS = {"quantile": 0.5, "decayed_sum": 1_000_000, "decayed_mean": 1_000_000}
# Null where size is null: then the event does not count.
WHERE = where_of("drawn", pl.col("flag") & (pl.col("size") > -5))


def features_of(function: str) -> list[Feature]:
    """The function on every column, or pair of columns, that it accepts; plain and filtered."""
    entry = FUNCTIONS[function]
    argument = ARGUMENTS.get(function, 2 if entry.argument else None)
    columns: list[tuple[str | None, str | None]] = [
        (name, None) for name, kind in TYPES.items() if family(kind) in entry.accepted
    ]
    if entry.takes == "events" or entry.takes == "events or a column":
        columns.append((None, None))
    if entry.takes == "two columns":
        columns = [("amount", "size"), ("size", "flag"), ("flag", "amount"), ("price", "share"), ("amount", "price")]
    if entry.takes == "two aggregates":
        tops, bottom = ("amount", "size", "price"), Feature("count", where=WHERE)
        pairs = [(Feature("sum", top), bottom) for top in tops]
        pairs += [
            (Feature("sum", "amount"), Feature("max", "price")),
            (Feature("last", "price"), Feature("sum", "share")),
        ]
        return [Feature(function, parts=parts) for parts in pairs]
    return [
        Feature(function, column, other=other, argument=argument, where=where)
        for column, other in columns
        for where in (None, WHERE)
    ]


def is_refused(function: str, window: str) -> bool:
    entry = FUNCTIONS[function]
    if entry.needs_size:
        return window not in ("sliding", "long", "shifted", "shifted exactly")
    return entry.decays and window not in ("sliding", "long", "all of time")


CELLS = list(itertools.product(FUNCTIONS, WINDOWS))
LATER = (0, 30, 61, 5_000_000, 100_000_000_000)


@pytest.mark.parametrize(("function", "window"), [cell for cell in CELLS if is_refused(*cell)])
def test_what_cannot_be_meant_is_refused_with_its_reason(function: str, window: str) -> None:
    for feature in features_of(function):
        over = feature.over(*WINDOWS[window]) if WINDOWS[window] else feature
        with pytest.raises(UnsupportedAggregateError, match=f"{function} (needs a window|decays over sliding)"):
            compile_plan("v", {"x": over}, TYPES, NULLABLE)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", FUNCTIONS)
@settings(max_examples=12, deadline=None)
@given(
    events=event_lists(),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    order=st.randoms(use_true_random=False),
    spine=st.lists(st.tuples(st.integers(0, ROWS - 1), moments), min_size=1, max_size=4),
)
def test_rows_and_join_equal_the_plain_value(function, events, cuts, order, spine):
    plan, written = plan_of(function)
    shuffled = list(events)
    order.shuffle(shuffled)
    payloads: list[bytes | None] = [None] * ROWS
    edges = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            payloads = list(fold(payloads, columnar(shuffled[start:end]), plan))
    newest_us = max((e.event_us for e in events), default=0)
    asked = [(row, newest_us + later) for later in LATER for row in range(ROWS)]
    for later in LATER:
        got = {name: python_values(array) for name, array in roll_up(payloads, newest_us + later, plan).items()}
        compare(plan, written, events, got, [(row, newest_us + later) for row in range(ROWS)])
    joined = join(columnar(events), [*asked, *spine], plan)
    compare(plan, written, events, joined, [*asked, *spine])


def plan_of(function: str) -> tuple[Plan, list[Feature]]:
    """One plan with every cell of the function that is not refused, and the feature behind each output."""
    features, written = {}, []
    for window, over in WINDOWS.items():
        if is_refused(function, window):
            continue
        for feature in features_of(function):
            features[f"f{len(written)}"] = feature.over(*over) if over else feature
            written.append(feature)
    return compile_plan("v", features, TYPES, NULLABLE), written  # type: ignore[arg-type]


def join(events: Any, spine: list[tuple[int, int]], plan: Plan) -> dict[str, list[Any]]:
    rows = np.array([row for row, _ in spine], dtype=np.int64)
    asked = np.array([moment for _, moment in spine], dtype=np.int64)
    return {name: python_values(array) for name, array in values_at(events, rows, asked, plan).items()}


def compare(
    plan: Plan,
    written: list[Feature],
    events: list[naive.Event],
    got: dict[str, list[Any]],
    asked: list[tuple[int, int]],
) -> None:
    for output, feature in zip(plan.outputs, written, strict=True):
        for place, (row, moment_us) in enumerate(asked):
            inside = naive.in_window(events, row, moment_us, output.window)
            found, wanted = got[output.name][place], plain(feature, inside, moment_us, output.window)
            where = (feature, output.window, row, moment_us, found, wanted)
            if feature.function == "decayed_mean" and wanted is None:
                # What has faded away has no mean; where exactly it is gone is up to the last bits of the weights.
                assert found is None or inside, where
            elif feature.function in ("decayed_sum", "decayed_mean") and wanted is not None:
                magnitude = sum(abs(Fraction(e.values[feature.column] or 0)) for e in inside)
                # Near the largest float parts are infinite, and test_decay.py says what comes of that.
                if magnitude < 10**300:
                    assert found is not None, where
                    assert abs(found - wanted) <= max(float(magnitude) * 1e-12, 1e-290), where
            else:
                assert alike(found, wanted, str(feature.function)), where


def plain(feature: Feature, events: list[naive.Event], moment_us: int, window: Window) -> Any:
    if feature.parts:
        above, below = (plain(part, events, moment_us, window) for part in feature.parts)
        return divided(above, below) if above is not None and below else None
    if feature.where is not None:
        events = [e for e in events if e.values["flag"] and e.values["size"] is not None and e.values["size"] > -5]
    dtype = TYPES[feature.column] if feature.column else "int64"
    assert isinstance(feature.function, str)
    found = naive.value(
        feature.function, feature.column, dtype, events, moment_us, window.size_us, feature.argument, feature.other
    )
    if feature.function == "quantile" and found is not None:
        return float(middles_of(buckets_of(np.array([float(found)])))[0])
    return found


def divided(above: Any, below: Any) -> float:
    if not math.isfinite(above) or not math.isfinite(below):
        return float(above) / float(below)
    try:
        return float(Fraction(above) / Fraction(below))
    except OverflowError:
        return math.copysign(math.inf, above) * math.copysign(1, below)


def alike(found: Any, wanted: Any, function: str) -> bool:
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(alike(*each, function) for each in zip(found, wanted, strict=True))
    return same(found, wanted, function)


@pytest.mark.parametrize(("function", "column"), list(itertools.product(FUNCTIONS, TYPES)))
def test_a_column_that_a_function_cannot_mean_is_refused_with_the_types_that_it_can(function: str, column: str) -> None:
    entry = FUNCTIONS[function]
    if not entry.takes.endswith(("column", "columns")) or family(TYPES[column]) in entry.accepted:
        return
    over: tuple[str, ...] = ("1h",) if entry.needs_size or entry.decays else ()
    other = "amount" if entry.takes == "two columns" else None
    argument = ARGUMENTS.get(function, 2 if entry.argument else None)
    written = Feature(function, column, other=other, argument=argument).over(*over)
    with pytest.raises(UnsupportedAggregateError, match=f"{column}.*it takes {entry.accepted[0]}"):
        compile_plan("v", {"x": written}, TYPES, NULLABLE)
