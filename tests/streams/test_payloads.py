"""Payloads side by side, and in several parts, are a sequence like the list that they were made of."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.payloads import Parts, Payloads, picked, taken
from streams.transport import Batch

lists = st.lists(st.none() | st.binary(max_size=5), max_size=8)


@settings(deadline=None)  # the first one may have to load the loop
@given(st.lists(lists, max_size=4), st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([None, 1, 2, -1]))
def test_payloads_and_their_parts_are_the_list(
    several: list[list[bytes | None]], first: int, end: int, step: int | None
) -> None:
    whole = [payload for part in several for payload in part]
    mixed = [Payloads.of(part) if number % 2 else part for number, part in enumerate(several)]
    parts = Parts(mixed)
    some = slice(first, end, step)
    for held in (parts, Payloads.joined(mixed), Payloads.of(parts), Payloads.joined([parts]), Parts([parts, []])):
        assert list(held) == whole
        assert len(held) == len(whole)
        assert list(held[some]) == whole[some]
        assert [held[index] for index in range(-len(whole), len(whole))] == [*whole, *whole]
        assert Payloads.of(held[some]).size_bytes == sum(len(payload or b"") for payload in whole[some])
        places = np.arange(len(whole))[some if step != -1 else slice(first, end)]
        assert picked(held, places) == [whole[place] for place in places]
        twice = np.repeat(places, 2)
        assert picked(held, twice) == [whole[place] for place in twice]
        apart = taken(held, twice)
        assert list(apart) == [whole[place] for place in twice]
        assert len(apart.data) == apart.size_bytes


def test_a_batch_has_the_bytes_of_its_keys_too() -> None:
    places = np.arange(2)
    assert Batch("t", 0, 0, 2, [b"ab", None], places, places, -1, [b"key", None]).size_bytes == 5
