"""What the loop writes is what the client library writes."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernel import Pieces
from featurestore.online.wire import LOOPED_MIN, Prefixed, flat, packed

strings = st.lists(st.binary(max_size=40) | st.binary(min_size=90, max_size=120), max_size=2 * LOOPED_MIN)


@given(
    names=strings, rows=strings, prefix=st.binary(max_size=30), token=st.binary(max_size=16), first=st.integers(0, 9)
)
def test_a_call_is_the_same_bytes_however_it_is_written(
    names: list[bytes], rows: list[bytes], prefix: bytes, token: bytes, first: int
) -> None:
    some = Pieces.of(rows).between(min(first, len(rows)), len(rows))
    assert list(some) == rows[first:]
    assert len(some) == len(rows[first:])
    call = ("FCALL", "commit", len(names), Prefixed(prefix, names), "words", 7, Prefixed(token, some))
    plain = ("FCALL", "commit", len(names), *[prefix + name for name in names], "words", 7)
    plain = (*plain, *[token + row for row in rows[first:]])
    assert flat(call) == plain
    assert b"".join(packed([call, ("PING",)])) == hiredis.pack_command(plain) + hiredis.pack_command(("PING",))


def test_many_calls_are_sent_in_few_pieces() -> None:
    small, large = ("GET", b"k"), ("MSET", Prefixed(b"", Pieces.of([b"x" * 1_000] * 200)))
    assert len(packed([small] * 100)) == 1
    assert len(packed([large, small, large])) == 2


def test_what_is_no_bytes_is_refused() -> None:
    strange: list[bytes] = [b"k"] * LOOPED_MIN
    for other in (None, "k", 3):
        with pytest.raises(TypeError, match="are bytes"):
            packed([("MGET", Prefixed(b"", [*strange, other]))])  # type: ignore[list-item]
