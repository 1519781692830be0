"""Distinct counts: exact to their bound, then near, and the same for any order, grouping and place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore.kernel import Column, Events, Feature, compile_plan, fold, hyperloglog, roll_up, values_at
from featurestore.kernel.aggregates.distinct import EXACT_MAX, DistinctPartial
from featurestore.kernel.keys import hash64

PLAN = compile_plan(
    "v",
    {"n": Feature("distinct", "who").over("1h", "6h"), "all": Feature("distinct", "who")},
    {"who": "int64"},
    frozenset(),
)
HOUR_US = 3_600_000_000


def events_of(values: np.ndarray, times: np.ndarray | None = None) -> Events:  # type: ignore[type-arg]
    places = np.arange(len(values))
    times = places if times is None else times
    return Events(places * 0, times, (places * 0).astype(np.int32), places, {"who": Column(values)})


def naive_count(values: list[int]) -> int:
    """Registers and their estimate one by one, as the paper writes them."""
    hashes = {hash64(value.to_bytes(8, "little", signed=True)) for value in values}
    if len(hashes) <= EXACT_MAX:
        return len(hashes)
    registers = [0] * 8192
    for each in hashes:
        index, rest = each >> 51, each & (2**51 - 1)
        registers[index] = max(registers[index], 52 - rest.bit_length())
    counts = [registers.count(rank) for rank in range(53)]
    x = 1 - counts[52] / 8192
    tau, y = 1 - x, 1.0
    while x not in (0, 1):
        x, y, before = x**0.5, y / 2, tau
        tau -= (1 - x) ** 2 * y
        if tau == before:
            break
    total = 8192 * tau / 3
    for rank in range(51, 0, -1):
        total = (total + counts[rank]) / 2
    x = counts[0] / 8192
    sigma, y = x, 1.0
    while x:
        x, before = x * x, sigma
        sigma += x * y
        y *= 2
        if sigma == before:
            break
    return max(round(0.7213475204444817 * 8192 * 8192 / (total + 8192 * sigma)), EXACT_MAX + 1)


@pytest.mark.parametrize("different", [EXACT_MAX - 1, EXACT_MAX, EXACT_MAX + 1, 3_000, 30_000])
def test_exact_to_the_bound_then_as_the_definition_says_in_any_order(different: int) -> None:
    values = np.concatenate([np.arange(different), np.arange(different // 2)])
    rows_of = []
    for seed, step in ((1, 7_000), (2, 400), (3, 100_000)):
        shuffled = np.random.default_rng(seed).permutation(values)
        # Tiles of the hour with few values, with many, and with so many that one is a sketch already.
        times = np.sort((np.random.default_rng(7).random(len(values)) ** 2 * HOUR_US).astype(np.int64))
        times = times[np.argsort(np.argsort(shuffled, kind="stable"), kind="stable")]
        rows: list[bytes | None] = [None]
        for start in range(0, len(values), step):
            rows = list(fold(rows, events_of(shuffled[start : start + step], times[start : start + step]), PLAN))
        rows_of.append(rows)
    assert rows_of[0] == rows_of[1] == rows_of[2]
    wanted = naive_count(values.tolist())
    served, joined = (
        roll_up(rows, HOUR_US, PLAN),
        values_at(events_of(shuffled, times), np.zeros(1, int), np.array([HOUR_US]), PLAN),
    )
    for name in ("n_1h", "n_6h", "all"):
        assert served[name].to_pylist() == joined[name].to_pylist() == [wanted]
    assert wanted == different if different <= EXACT_MAX else abs(wanted / different - 1) < 0.04


def test_estimates_have_the_error_that_is_told_and_no_bias() -> None:
    draw = np.random.default_rng(5)
    for count in (EXACT_MAX + 1, 2_000, 8_192, 40_000):
        histograms = [
            hyperloglog.histogram(hyperloglog.registers_of(draw.integers(0, 2**64, count, np.uint64)))
            for _ in range(60)
        ]
        errors = hyperloglog.estimates(np.array(histograms)) / count - 1
        assert np.sqrt((errors**2).mean()) < 1.25 * hyperloglog.STANDARD_ERROR
        assert abs(errors.mean()) < 3 * hyperloglog.STANDARD_ERROR / np.sqrt(60)
        # Estimated together as alone: what one of them needs may not show in another.
        assert [hyperloglog.estimates(each[None])[0] for each in histograms[:5]] == hyperloglog.estimates(
            np.array(histograms)
        )[:5].tolist()


def test_neighbouring_tiles_and_entities_with_the_same_one_value_have_one_each() -> None:
    values, times = np.full(4, 7), np.array([0, 1, HOUR_US, 1])
    row = np.array([0, 0, 0, 1])
    events = Events(row, times, np.zeros(4, np.int32), np.arange(4), {"who": Column(values)})
    served = roll_up(fold([None, None], events, PLAN), HOUR_US, PLAN)
    assert served["n_1h"].to_pylist() == served["all"].to_pylist() == [1, 1]


@settings(max_examples=60, deadline=None)
# Sketches that slide: what left must not hide what comes.
@example(different=1_400, total=2_500, ranges=[(start, 1_000) for start in range(0, 1_500, 100)], seed=0)
@given(
    different=st.integers(1, 1_400),
    total=st.integers(1, 2_500),
    ranges=st.lists(st.tuples(st.integers(0, 2_499), st.integers(1, 2_500)), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_a_range_that_slides_counts_what_merging_the_range_counts(different, total, ranges, seed) -> None:  # type: ignore[no-untyped-def]
    values = np.random.default_rng(seed).integers(0, different, total)
    held = Column(values, np.random.default_rng(seed + 1).random(total) < 0.95)
    events = Events(values * 0, np.arange(total), np.zeros(total, np.int32), np.arange(total), {"x": held})
    plan = compile_plan("v", {"n": Feature("distinct", "x")}, {"x": "int64"}, frozenset({"x"}))
    [compiled] = [output.aggregate for output in plan.outputs]
    [partial] = compiled.partials
    assert isinstance(partial, DistinctPartial)
    low = np.array([min(start, total - 1) for start, _ in ranges])
    high = np.array([min(start + size, total) for start, (_, size) in zip(low.tolist(), ranges, strict=True)])
    lifted = partial.lift(events)
    slid = compiled.finish({partial.name: partial.over(lifted, low, high)}, None).values  # type: ignore[arg-type]
    for start, end, found in zip(low.tolist(), high.tolist(), slid.tolist(), strict=True):
        one = partial.merge({"value": lifted["value"][start:end]}, np.array([0]))
        merged = compiled.finish({partial.name: one}, None).values  # type: ignore[arg-type]
        assert found == merged[0] == naive_count(values[start:end][held.valid[start:end]].tolist())


def test_registers_are_packed_and_unpacked() -> None:
    registers = np.random.default_rng(1).integers(0, hyperloglog.RANK_MAX + 1, hyperloglog.REGISTERS).astype(np.uint8)
    raw = hyperloglog.packed(registers)
    assert len(raw) == hyperloglog.REGISTERS_BYTES
    assert (hyperloglog.unpacked(raw) == registers).all()
