"""Logarithms to base 2 that are the same bits on every machine; a standard library's differ in their last one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ROOT_OF_HALF = 0.7071067811865476
_PER_LN_2 = 1.4426950408889634
# ln m = 2 (s + s**3 / 3 + s**5 / 5 + ...) with s = (m - 1) / (m + 1): for m from a root of 1/2 on, which keeps s under
# 0.172, what comes after the twelfth term is below the last bit.
_TERMS = 12


def log2(values: Floats) -> Floats:
    """The logarithm of numbers over 0, within a few units of the last place; of powers of two exact."""
    mantissa, exponent = np.frexp(values)
    small = mantissa < _ROOT_OF_HALF
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), np.where(small, exponent - 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full(len(values), 1.0 / (2 * _TERMS + 1))
    for term in range(_TERMS - 1, -1, -1):
        series = series * square + 1.0 / (2 * term + 1)
    found: Floats = exponent + 2.0 * s * series * _PER_LN_2
    return found
