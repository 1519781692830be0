"""Rows are grouped by their keys as comparing the keys one by one would group them, and keys find their buckets."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import WrongTypeError
from featurestore.kernel.keys import bucket_of, encode_keys, group_keys

_COLUMNS = {
    pa.string(): st.text(max_size=6) | st.sampled_from(["", "a", "\0", "🂡", "x" * 300]),
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3),
    pa.bool_(): st.booleans(),
}


@st.composite
def columns(draw: st.DrawFn) -> list[pa.Array]:
    """One to three key columns; each may be a slice of a longer array."""
    rows, skipped = draw(st.integers(0, 12)), draw(st.integers(0, 2))
    kinds = draw(st.lists(st.sampled_from(list(_COLUMNS)), min_size=1, max_size=3))
    size = rows + skipped
    made = [pa.array(draw(st.lists(_COLUMNS[kind], min_size=size, max_size=size)), kind) for kind in kinds]
    return [each.slice(skipped) for each in made]


@settings(deadline=None)
@given(columns(), st.integers(1, 70))
def test_grouping_keys_gives_each_row_its_own_key_and_each_key_its_bucket(held: list[pa.Array], buckets: int) -> None:
    wanted = encode_keys(held)
    grouped = group_keys(held)
    keys = list(grouped.keys)
    assert [keys[row] for row in grouped.row.tolist()] == wanted
    assert sorted(grouped.keys) == sorted(set(wanted))
    ordered, bucket = grouped.by_bucket(buckets)
    ordered_keys = list(ordered.keys)
    assert [ordered_keys[row] for row in ordered.row.tolist()] == wanted
    assert bucket.tolist() == sorted(bucket.tolist()) == [bucket_of(key, buckets) for key in ordered.keys]


def test_a_null_is_no_key() -> None:
    for held in ([pa.array(["a", None])], [pa.array(["a", "b"]), pa.array([1, None])]):
        with pytest.raises(WrongTypeError):
            group_keys(held)
