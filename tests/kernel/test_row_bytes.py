"""What `plan` says of a row's size is what rows have."""

from __future__ import annotations

import numpy as np

from featurestore.kernel import Column, Events, Feature, compile_plan, fold, row_bytes
from featurestore.kernel.windows import newest, session

FEATURES = {
    "n": Feature("count").over("1h", newest(5)),
    "total": Feature("sum", "x").over("1h", "24h"),
    "spread": Feature("std", "x").over(session("10m", longest="2h")),
    "all": Feature("max", "x"),
}


def test_a_row_of_one_event_and_a_full_one_have_the_size_that_was_told() -> None:
    plan = compile_plan("v", FEATURES, {"x": "float64"}, frozenset())
    cold, dense, _, has_texts = row_bytes(plan)
    assert not has_texts
    [one] = fold([None], steady(1), plan)
    [full] = fold([None], steady(10_000), plan)
    assert len(one or b"") == cold
    # At a given moment the newest tile may have just begun or the oldest just have ended, so one tile may be missing.
    assert dense * 0.95 <= len(full or b"") <= dense
    [longer] = fold([None], steady(20_000), plan)
    assert len(longer or b"") <= dense


def steady(count: int) -> Events:
    """An event every ten seconds."""
    zeros = np.zeros(count, dtype=np.int64)
    times = 2**50 + np.arange(count) * 10_000_000
    return Events(zeros, times, zeros.astype(np.int32), np.arange(count), {"x": Column(np.full(count, 1.5))})


def test_what_sketches_and_lists_keep_is_told_as_well() -> None:
    features = {
        "kinds": Feature("distinct", "x").over("1h"),
        "most": Feature("top_k", "x", argument=3),
        "list": Feature("last_n", "x", argument=7).over(newest(9)),
        "spread": Feature("entropy", "x").over("6h"),
        "middle": Feature("quantile", "x", argument=0.5).over("6h"),
        "text": Feature("count", "x"),
    }
    plan = compile_plan("v", features, {"x": "float64"}, frozenset())
    cold, dense, _, has_texts = row_bytes(plan)
    assert not has_texts
    events = steady(40_000)
    one = events.take(np.arange(1))
    assert len(fold([None], one, plan)[0]) == cold
    values = np.random.default_rng(2).permutation(40_000) + 1.0
    crowded = Events(
        events.row, 2**50 + np.arange(40_000) * 500_000, events.partition, events.offset, {"x": Column(values)}
    )
    assert len(fold([None], crowded, plan)[0]) <= dense
    texts = compile_plan("v", {"last": Feature("last", "x")}, {"x": "string"}, frozenset())
    assert row_bytes(texts).has_texts


def test_numbers_very_large_and_very_small_at_once_take_no_more_than_was_told() -> None:
    features = {"shape": Feature("kurtosis", "x").over("1h"), "usual": Feature("mean", "x")}
    plan = compile_plan("v", features, {"x": "float64"}, frozenset())
    sizes, events = row_bytes(plan), steady(1_000)
    extreme = np.where(np.arange(1_000) % 2, 1e-300, 1e299)
    [row] = fold(
        [None],
        Events(*(getattr(events, name) for name in ("row", "event_us", "partition", "offset")), {"x": Column(extreme)}),
        plan,
    )
    assert sizes.dense < len(row or b"") <= sizes.most
