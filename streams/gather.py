"""Bytes from many places put one after the other, in a compiled loop: it waits for memory without the lock."""

from __future__ import annotations

from featurestore.kernel.loops.jit import loop


@loop
def gather(data, start, length, out):  # type: ignore[no-untyped-def]
    """The bytes that begin at these places; `out` has room for all of them, a negative length is none."""
    to = 0
    for index in range(len(start)):
        source = start[index]
        for place in range(length[index]):
            out[to + place] = data[source + place]
        to += max(length[index], 0)
