"""Two costs are told apart inside one run, however unevenly its partitions go on."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.bench.blocks import Ends, seconds_a_record
from featurestore.bench.payments import BAD, UNIFORM, block_sizes, payments
from featurestore.errors import FeatureStoreError

_BLOCKS, _PARTITIONS = 8, 4
_BORDERS = [{p: number * (1_000 + 10 * p) for p in range(_PARTITIONS)} for number in range(_BLOCKS + 1)]


def _run(draw: random.Random, even_s: float, odd_s: float) -> list[tuple[float, Ends]]:
    """One batch after the other, each of any partition that has some left; a look after each."""
    at, seconds = dict.fromkeys(range(_PARTITIONS), 0), 3.0
    looks: list[tuple[float, Ends]] = [(seconds, dict(at))]
    while left := [p for p, end in _BORDERS[-1].items() if at[p] < end]:
        partition = draw.choice(left)
        for _ in range(min(draw.randint(1, 400), _BORDERS[-1][partition] - at[partition])):
            block = at[partition] // _BORDERS[1][partition]
            seconds += odd_s if block % 2 else even_s
            at[partition] += 1
        looks.append((seconds, dict(at)))
    return looks


@given(st.integers(0, 2**32), st.floats(1e-6, 1e-3), st.floats(0.5, 2.0))
def test_the_costs_of_both_kinds_are_found(seed: int, even_s: float, ratio: float) -> None:
    looks = _run(random.Random(seed), even_s, even_s * ratio)

    assert seconds_a_record(looks, _BORDERS) == pytest.approx((even_s, even_s * ratio))


def test_a_worker_that_was_seen_twice_tells_nothing() -> None:
    looks = _run(random.Random(1), 1e-6, 1e-6)

    with pytest.raises(FeatureStoreError, match="2 looks are too few to tell 8 blocks apart"):
        seconds_a_record([looks[0], looks[1], looks[-2], looks[-1]], _BORDERS)


def test_every_other_block_has_bad_records() -> None:
    sizes = block_sizes(BAD, 4_001)
    starts = [0, *accumulate(sizes)]
    bad = [value.count(b",") < 4 for _, value in payments(BAD, 4_001, 10**15)]
    shares = [sum(bad[start:end]) / (end - start) for start, end in pairwise(starts)]

    assert sum(sizes) == 4_001
    assert len(sizes) == BAD.blocks
    assert not any(shares[::2])
    assert all(0.04 < share < 0.16 for share in shares[1::2])


def test_without_blocks_all_records_are_alike() -> None:
    assert block_sizes(UNIFORM, 4_001) == [4_001]
    assert all(value.count(b",") == 4 for _, value in payments(UNIFORM, 1_000, 10**15))
