"""Exact sums, rounded once: the last step of sums and means."""

from __future__ import annotations

import math

import numpy as np

from featurestore.kernel.loops.jit import loop

_MASK = np.int64(0xFFFF_FFFF)
# Powers of two that floats hold without losing bits, from 2**-1022 on.
_POWERS = np.ldexp(1.0, np.arange(-1022, 1024))
# Sixty-four bits or more of a quotient are in its three digits from the first that is not zero.
_DIGITS = 3


@loop
def to_floats(digits, exponent, out):  # type: ignore[no-untyped-def]
    """Each sum of digits (n, w), times 2**exponent, rounded half to even into `out` (n)."""
    width = digits.shape[1] + 1
    size = np.empty(width, np.int64)
    head = np.zeros(_DIGITS, np.int64)
    for row in range(len(digits)):
        negative = _size(digits, row, size)
        top = width - 1
        while top >= 0 and size[top] == 0:
            top -= 1
        if top < 0:
            out[row] = 0.0
            continue
        rest = False
        for place in range(_DIGITS):
            head[place] = size[top - place] if top >= place else 0
        for place in range(top - _DIGITS + 1):
            rest |= size[place] != 0
        value = _rounded(head, exponent + 32 * top, rest)
        # What is too small for any float is 0, without a sign.
        out[row] = -value if negative and value != 0.0 else value


@loop
def means(digits, exponent, counts, out):  # type: ignore[no-untyped-def]
    """Each sum divided by its count, rounded once; NaN where the quotient may be subnormal and is left to others."""
    width = digits.shape[1] + 1
    size = np.empty(width, np.int64)
    head = np.zeros(_DIGITS, np.int64)
    for row in range(len(digits)):
        negative = _size(digits, row, size)
        place = width - 1
        while place >= 0 and size[place] == 0:
            place -= 1
        if place < 0:
            out[row] = 0.0
            continue
        count, rest, found, top = counts[row], np.int64(0), 0, np.int64(0)
        while found < _DIGITS:
            rest = (rest << 32) | (size[place] if place >= 0 else np.int64(0))
            quotient = rest // count
            rest -= quotient * count
            if found or quotient:
                if found == 0:
                    top = place
                head[found] = quotient
                found += 1
            place -= 1
        inexact = rest != 0
        while place >= 0 and not inexact:
            inexact = size[place] != 0
            place -= 1
        value = _rounded(head, exponent + 32 * top, inexact)
        out[row] = np.nan if value < 2.0**-1021 else (-value if negative else value)


@loop
def _size(digits, row, size):  # type: ignore[no-untyped-def]
    """The sum without its sign, as digits under 2**32; whether it was negative."""
    width = digits.shape[1]
    carry = np.int64(0)
    for place in range(width):
        total = digits[row, place] + carry
        size[place] = total & _MASK
        carry = total >> 32
    size[width] = carry
    if carry >= 0:
        return False
    carry = np.int64(1)
    for place in range(width + 1):
        total = (size[place] ^ _MASK) + carry if place < width else ~size[place] + carry
        size[place] = total & _MASK
        carry = total >> 32
    return True


@loop
def _rounded(head, exponent, inexact):  # type: ignore[no-untyped-def]
    """Three digits, the first of them not zero and at 2**exponent; `inexact` says that more bits lie below."""
    lead = 0
    while (head[0] << lead) < np.int64(1) << 31:
        lead += 1
    low = 32 - lead
    bits = (np.uint64(head[0]) << np.uint64(32)) | np.uint64(head[1])
    bits = (bits << np.uint64(lead)) | (np.uint64(head[2]) >> np.uint64(low))
    if inexact or head[2] & ((np.int64(1) << low) - 1):
        # One bit stands for all below: the conversion then rounds as if it saw them.
        bits |= np.uint64(1)
    place = exponent - 32 - lead
    if -1022 <= place <= 900:
        return float(bits) * _POWERS[place + 1022]
    return math.ldexp(float(bits), place)
