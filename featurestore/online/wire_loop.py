"""Many arguments of a command in the server's framing, which is "$", the length, the bytes, each ended as a line."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop
from featurestore.kernel.loops.payloads import bytes_at

_DOLLAR, _ZERO, _RETURN, _NEWLINE = np.uint8(36), np.uint8(48), np.uint8(13), np.uint8(10)


@loop
def write_arguments(prefix, addresses, lengths, out):  # type: ignore[no-untyped-def]
    """Each argument is the prefix and the bytes at its address; returns how many bytes were written."""
    at = np.uint64(0)
    for index in range(len(addresses)):
        size = np.int64(len(prefix)) + lengths[index]
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
        for place in range(np.uint64(len(prefix))):
            out[at + place] = prefix[place]
        at += np.uint64(len(prefix))
        if lengths[index] > 0:
            source = bytes_at(addresses[index], lengths[index])
            for place in range(np.uint64(lengths[index])):
                out[at + place] = source[place]
            at += np.uint64(lengths[index])
        at = _line_end(out, at)
    return np.int64(at)


@loop
def _line_end(out, at):  # type: ignore[no-untyped-def]
    out[at], out[at + np.uint64(1)] = _RETURN, _NEWLINE
    return at + np.uint64(2)
