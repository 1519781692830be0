"""Many arguments of a command in the server's framing, which is "$", the length, the bytes, each ended as a line."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop

_DOLLAR, _ZERO, _RETURN, _NEWLINE = np.uint8(36), np.uint8(48), np.uint8(13), np.uint8(10)


@loop
def write_arguments(prefixes, prefix_at, which, items, item_at, out):  # type: ignore[no-untyped-def]
    """Each argument is its prefix and its item; returns how many bytes were written."""
    at = np.uint64(0)
    for index in range(len(which)):
        head, end = np.uint64(prefix_at[which[index]]), np.uint64(prefix_at[which[index] + 1])
        first, last = np.uint64(item_at[index]), np.uint64(item_at[index + 1])
        size = np.int64(end - head + last - first)
        digits, tens = np.uint64(1), np.int64(10)
        while size >= tens:
            digits, tens = digits + np.uint64(1), tens * 10
        out[at] = _DOLLAR
        at += digits
        left = size
        for back in range(digits):
            out[at - back] = _ZERO + np.uint8(left % 10)
            left //= 10
        at = _line_end(out, at + np.uint64(1))
        for place in range(end - head):
            out[at + place] = prefixes[head + place]
        at += end - head
        for place in range(last - first):
            out[at + place] = items[first + place]
        at += last - first
        at = _line_end(out, at)
    return np.int64(at)


@loop
def _line_end(out, at):  # type: ignore[no-untyped-def]
    out[at], out[at + np.uint64(1)] = _RETURN, _NEWLINE
    return at + np.uint64(2)
