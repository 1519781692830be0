"""What the loop writes is what the client library writes."""

from __future__ import annotations

from random import Random

import hiredis
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernel import Pieces
from featurestore.online.wire import LOOPED_MIN, Prefixed, flat, packed

strings = st.lists(st.binary(max_size=40) | st.binary(min_size=90, max_size=120), max_size=2 * LOOPED_MIN)


@given(
    names=strings,
    rows=strings,
    prefixes=st.lists(st.binary(max_size=30), min_size=1, max_size=5),
    token=st.binary(max_size=16),
    first=st.integers(0, 9),
    draw=st.randoms(use_true_random=False),
)
def test_a_call_is_the_same_bytes_however_it_is_written(
    names: list[bytes], rows: list[bytes], prefixes: list[bytes], token: bytes, first: int, draw: Random
) -> None:
    which = [draw.randrange(len(prefixes)) for _ in names]
    keys = Prefixed(Pieces.of(prefixes), np.array(which, dtype=np.int64), Pieces.of(names))
    values = Prefixed.alike(token, Pieces.of(rows)).between(min(first, len(rows)), len(rows))
    assert len(values) == len(rows[first:])
    call = ("FCALL", "commit", len(names), keys, "words", 7, values)
    plain = ("FCALL", "commit", len(names), *[prefixes[of] + name for of, name in zip(which, names, strict=True)])
    plain = (*plain, "words", 7, *[token + row for row in rows[first:]])
    assert flat(call) == plain
    assert b"".join(packed([call, ("PING",)])) == hiredis.pack_command(plain) + hiredis.pack_command(("PING",))


def test_many_calls_are_sent_in_few_pieces() -> None:
    small, large = ("GET", b"k"), ("MSET", Prefixed.alike(b"", Pieces.of([b"x" * 1_000] * 200)))
    assert len(packed([small] * 100)) == 1
    assert len(packed([large, small, large])) == 2
