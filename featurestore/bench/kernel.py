"""The kernel's three uses, each against the least that the same data can cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from featurestore.bench.report import Bench, Figure, load_now
from featurestore.event_time import HOUR_US, MINUTE_US
from featurestore.kernel import Column, Events, Feature, Plan, compile_plan, fold, fold_pieces, roll_up, values_at
from featurestore.kernel.tilings import Even

_WINDOWS = ("1h", "6h", "24h", "7d")
_FEATURES = {
    "n": Feature("count").over(*_WINDOWS),
    "total": Feature("sum", "amount").over(*_WINDOWS),
    "mean": Feature("mean", "amount").over(*_WINDOWS),
    "least": Feature("min", "amount").over(*_WINDOWS),
    "most": Feature("max", "amount").over(*_WINDOWS),
}
_FOLD_EVENTS, _FOLD_KEYS = 50_000, 5_000
_ROWS = 1_000
_HOT_EVENTS, _HOT_MOMENTS = 1_000_000, 100_000
_DAY_US = 24 * HOUR_US

Say = Callable[[str], None]


def bench_kernel(rounds: int, say: Say) -> Bench:
    """Three ratios; both sides of each are measured in turn, `rounds` times."""
    load_before = load_now()
    plan = compile_plan("bench", _FEATURES, {"amount": "float64"}, frozenset())
    figures = (_fold(plan, rounds), _roll_up(plan, rounds), _hot_key(plan, rounds))
    for figure in figures:
        say(f"{figure.name}: {figure.value:.2f}")
    return Bench("kernel", figures, load_before)


def drawn(count: int, keys: int, first_us: int, span_us: int, seed: int) -> Events:
    """Events of uniform keys and rising times, with amounts in cents."""
    draw = np.random.default_rng(seed)
    times = np.sort(draw.integers(first_us, first_us + span_us, count))
    amounts = Column(np.round(draw.gamma(2.0, 30.0, count), 2))
    rows = draw.integers(0, keys, count)
    return Events(rows, times, np.zeros(count, dtype=np.int32), np.arange(count), {"amount": amounts})


def _fold(plan: Plan, rounds: int) -> Figure:
    before = drawn(_FOLD_EVENTS * 4, _FOLD_KEYS, 0, 7 * _DAY_US, 1)
    rows: list[bytes | None] = list(fold([None] * _FOLD_KEYS, before, plan))
    batch = drawn(_FOLD_EVENTS, _FOLD_KEYS, 7 * _DAY_US, MINUTE_US, 2)
    frame = pl.DataFrame({"key": batch.row, "at": batch.event_us, "amount": batch.columns["amount"].values})
    amount = pl.col("amount")
    tile = min(level.tiling.tile_us for level in plan.levels if isinstance(level.tiling, Even))

    def polars() -> Any:
        return frame.group_by("key", pl.col("at") // tile).agg(
            pl.len(), amount.sum().alias("sum"), amount.mean().alias("mean"), amount.min().alias("min"), amount.max()
        )

    ours, theirs = _times(lambda: fold_pieces(rows, batch, plan), polars, rounds)
    raw = {"ours_s": ours, "polars_s": theirs, "events": _FOLD_EVENTS, "rows": _FOLD_KEYS, "levels": len(plan.levels)}
    return Figure("fold 50,000 events into rows, against one Polars group_by", ours / theirs, "x", 4.0, "lower", raw)


def _roll_up(plan: Plan, rounds: int) -> Figure:
    events = drawn(_ROWS * 200, _ROWS, 0, 7 * _DAY_US, 3)
    rows: list[bytes | None] = list(fold([None] * _ROWS, events, plan))
    whole = b"".join(row or b"" for row in rows)
    words: Any = np.frombuffer(whole[: len(whole) // 8 * 8], dtype=np.int64)
    ours, theirs = _times(lambda: roll_up(rows, 7 * _DAY_US, plan), words.sum, rounds)
    raw = {"ours_s": ours, "numpy_s": theirs, "rows": _ROWS, "bytes": len(whole)}
    return Figure("roll 1,000 rows up, against summing their bytes once", ours / theirs, "x", 5.0, "lower", raw)


def _hot_key(plan: Plan, rounds: int) -> Figure:
    events = drawn(_HOT_EVENTS, 1, 0, 30 * _DAY_US, 4)
    asked = np.sort(np.random.default_rng(5).integers(0, 30 * _DAY_US, _HOT_MOMENTS))
    rows = np.zeros(_HOT_MOMENTS, dtype=np.int64)
    columns: list[Any] = [events.row, events.event_us, events.partition, events.offset]
    columns.append(events.columns["amount"].values)

    def read_once() -> Any:
        return [column.sum() for column in columns]

    ours, theirs = _times(lambda: values_at(events, rows, asked, plan), read_once, rounds)
    raw = {"ours_s": ours, "numpy_s": theirs, "events": _HOT_EVENTS, "moments": _HOT_MOMENTS}
    return Figure("100,000 moments of a hot key, against reading its events", ours / theirs, "x", 10.0, "lower", raw)


def _times(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median seconds of both, measured in turn after one warm-up each."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for work, times in zip((ours, theirs), taken, strict=True):
            began = time.perf_counter()
            work()
            if number:
                times.append(time.perf_counter() - began)
    return median(taken[0]), median(taken[1])
