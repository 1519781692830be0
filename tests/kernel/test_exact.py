"""Digits of exact sums: on the smallest rung that holds them, and still the same numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernel import exact
from featurestore.kernel.exact import RUNGS, width

WIDEST = len(RUNGS) - 1


def digits_of(wholes: list[int], rung: int, power: int) -> exact.Digits:
    """Carried: every digit in [0, 2**32) but the top one, which keeps the sign."""
    places = width(rung, power)
    return np.array(
        [[(each >> (32 * place)) & 0xFFFF_FFFF for place in range(places - 1)] + [each >> (32 * (places - 1))]
         for each in wholes],
        dtype=np.int64,
    )  # fmt: skip


def holds(whole: int, rung: int, smaller: int, power: int) -> bool:
    """Whether a smaller rung has the number's lowest bits, and room for it with its sign."""
    below = 32 * (RUNGS[smaller][0] - RUNGS[rung][0]) * power
    bits = 32 * width(smaller, power)
    return whole % (1 << below) == 0 and -(1 << (bits - 1)) <= whole >> below < 1 << (bits - 1)


@pytest.mark.parametrize("power", [1, 2])
@given(data=st.data())
def test_a_sum_goes_to_the_smallest_rung_that_holds_it_and_back(power: int, data: st.DataObject) -> None:
    rung = data.draw(st.integers(2, WIDEST))
    # Near the edges of digits, where the top bit of a number meets the sign.
    edges = st.builds(
        lambda place, bit, off, below, sign: sign * (((1 << (32 * place + bit)) + off) << (32 * below)),
        st.integers(0, width(rung, power) - 2), st.integers(0, 31), st.integers(-2, 2), st.integers(0, 8),
        st.sampled_from([-1, 1]),
    )  # fmt: skip
    most = 1 << (32 * width(rung, power) - 1)
    wholes = [each for each in data.draw(st.lists(edges, min_size=1, max_size=20)) if -most <= each < most]
    if not wholes:
        return
    digits = digits_of(wholes, rung, power)
    unit = Fraction(2) ** (32 * RUNGS[rung][0] * power)
    needs = exact.narrowest(digits, power).tolist()
    for place, (whole, need) in enumerate(zip(wholes, needs, strict=True)):
        assert need == next(
            smaller for smaller in range(1, rung + 1) if smaller == rung or holds(whole, rung, smaller, power)
        )
        assert exact.wholes(exact.narrowed(digits[place : place + 1], need, power), power) == [whole * unit]
