"""Sums of 128 bits, in two's complement, rounded once: nearly all of them by a few operations on floats.

What these cannot round for sure goes digit by digit, as `finish` does it. Both give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from featurestore.kernel.loops.finish import means, to_floats
from featurestore.kernel.loops.jit import loop

# The unit of sums of floats, as a power of two.
FLOAT_UNIT = -64
# The lower half of a sum that is cut in two for floats of 53 bits.
_LOW_BITS = np.uint64(53)
_LOW = np.uint64((1 << 53) - 1)
_LOW_WEIGHT = 2.0**53
# The upper half is a float without loss while the sum is below 2**106, so its high word below 2**42.
_HIGH_MAX = np.int64(1) << 42
_MASK = np.uint64(0xFFFF_FFFF)
# Three roundings, by 2**-53 each, lie well within this part of a correction.
_DOUBT = 2.0**-50


def _fuse(context, left, right, more):  # type: ignore[no-untyped-def]
    """left * right + more, rounded once."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.fma(*given)

    return types.float64(types.float64, types.float64, types.float64), build


_fused: Any = intrinsic(_fuse)


@loop
def sum_rounded(high, low, exponent):  # type: ignore[no-untyped-def]
    """high * 2**64 + low, times 2**exponent (0 or -64), half to even."""
    if -_HIGH_MAX <= high < _HIGH_MAX:
        unit = 1.0 if exponent == 0 else 2.0**-64
        upper, lower = _halves(high, low, unit)
        # Both are exact, so that this is the only rounding.
        return upper + lower
    return _by_digits(high, low, exponent, np.int64(0))


@loop
def mean_rounded(high, low, exponent, count):  # type: ignore[no-untyped-def]
    """The same divided by a count over 0, rounded once."""
    if -_HIGH_MAX <= high < _HIGH_MAX:
        unit = 1.0 if exponent == 0 else 2.0**-64
        upper, lower = _halves(high, low, unit)
        total = upper + lower
        below = lower - (total - upper)
        divisor = float(count)
        quotient = total / divisor
        # What the quotient leaves over is a float, and so is what the total lost: their sum is off by one rounding,
        # and the correction by three.
        correction = (_fused(-quotient, divisor, total) + below) * (1.0 / divisor)
        least = quotient + correction * (1.0 - _DOUBT)
        most = quotient + correction * (1.0 + _DOUBT)
        if least == most:
            return least
    return _by_digits(high, low, exponent, np.int64(count))


@loop
def _halves(high, low, unit):  # type: ignore[no-untyped-def]
    """Two floats whose sum is exactly the number."""
    upper = (high << 11) | np.int64(low >> _LOW_BITS)
    return float(upper) * (_LOW_WEIGHT * unit), float(np.int64(low & _LOW)) * unit


@loop
def _by_digits(high, low, exponent, count):  # type: ignore[no-untyped-def]
    digits, counts, out = np.empty((1, 4), np.int64), np.empty(1, np.int64), np.empty(1)
    digits[0, 0], digits[0, 1] = np.int64(low & _MASK), np.int64(low >> np.uint64(32))
    digits[0, 2], digits[0, 3] = np.int64(np.uint64(high) & _MASK), high >> 32
    counts[0] = count
    if count:
        means(digits, exponent, counts, out)
    else:
        to_floats(digits, exponent, out)
    return out[0]
