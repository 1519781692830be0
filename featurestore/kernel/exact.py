"""Exact sums of floats and integers, and of their products: fixed-point integers in 32-bit digits.

Enter: float64 or int64 arrays. Leave: float64 arrays, rounded once. Promise: the order in which partial sums
are merged cannot show, because no rounding happens before the end; a sum equals `math.fsum`, a mean is
correctly rounded, the deviation of equal values is 0.

A sum is a row of digits: value = sum_j digits[j] * 2**(32 * (base + j)). Adding is digit-wise int64 addition,
so prefix differences are exact as well; carries wait until `carried`. How many digits there are, and where
they start, is one of a few *rungs*, wide enough for the values at hand and for 2**31 of them. A wider rung
is only taken when values need it, so ordinary money, delays and counts stay at 16 bytes a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Digits = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_MASK = np.int64(0xFFFF_FFFF)
# Sums of up to 2**31 values fit every rung: this many bits stay free above the largest single value.
_HEADROOM_BITS = 32
_LIMB_BITS = 27
_LIMB_MASK = np.int64((1 << _LIMB_BITS) - 1)

# (first digit, end digit) of a sum; a sum of squares doubles both. Rung 0 is for integers.
RUNGS: tuple[tuple[int, int], ...] = ((0, 3), (-2, 2), (-4, 4), (-8, 8), (-34, 34))
# The first rung of floats that also holds every int64 with the headroom left free.
_INT_RUNG = 2
POWER_MAX = 4


def width(rung: int, power: int) -> int:
    """Digits on this rung of a sum of products of `power` numbers each."""
    first, end = RUNGS[rung]
    return (end - first) * power


_RUNG_OF = {(width(rung, power), power): rung for rung in range(len(RUNGS)) for power in range(1, POWER_MAX + 1)}


def rung_of(digits: Digits, power: int) -> int:
    """The rung is told by the number of digits."""
    return _RUNG_OF[digits.shape[1], power]


@dataclass(frozen=True, slots=True)
class Factors:
    """n numbers, each sign * sum_j limbs[j] * 2**(low_bit + 27 j): what a product is made of.

    rung  the smallest one that holds them all
    """

    limbs: Ints
    low_bit: Ints
    sign: Ints
    rung: int


def float_factors(values: Floats) -> Factors:
    """Finite floats as exact factors."""
    mantissa, exponent = np.frexp(values)
    whole = np.abs(np.ldexp(mantissa, 53)).astype(np.int64)
    low_bit = exponent.astype(np.int64) - 53
    nonzero = whole != 0
    rung = 1
    if nonzero.any():
        trailing = np.frexp((whole & -whole).astype(np.float64))[1] - 1
        lowest = int((low_bit + trailing)[nonzero].min())
        highest = int(exponent[nonzero].max())
        while 32 * RUNGS[rung][0] > lowest or 32 * RUNGS[rung][1] - 1 < highest + _HEADROOM_BITS:
            rung += 1
    # Bits under the rung's first digit are zero by its choice, so this shift loses nothing.
    first = 32 * RUNGS[rung][0]
    below = np.clip(first - low_bit, 0, 63)
    whole, low_bit = np.where(nonzero, whole >> below, 0), np.where(nonzero, low_bit + below, first)
    limbs = np.stack([whole & _LIMB_MASK, whole >> _LIMB_BITS], axis=1)
    return Factors(limbs, low_bit, np.where(values < 0, np.int64(-1), np.int64(1)), rung)


def int_factors(values: Ints) -> Factors:
    """int64 numbers as exact factors."""
    magnitude = np.where(values < 0, -values.astype(np.uint64), values.astype(np.uint64)).astype(np.uint64)
    limbs = [(magnitude >> np.uint64(27 * place)) & np.uint64(_LIMB_MASK) for place in range(3)]
    sign = np.where(values < 0, np.int64(-1), np.int64(1))
    return Factors(np.stack(limbs, axis=1).astype(np.int64), np.zeros(len(values), dtype=np.int64), sign, 0)


def products(factors: Sequence[Factors]) -> Digits:
    """The product of each row's factors as digits of power len(factors), on the smallest rung that holds them all."""
    rung, power = max(each.rung for each in factors), len(factors)
    if rung:
        # Integers among floats need room for 64 bits and the headroom.
        rung = max(rung, *(_INT_RUNG if each.rung == 0 else each.rung for each in factors))
    limbs, place, sign = factors[0].limbs, factors[0].low_bit, factors[0].sign
    for each in factors[1:]:
        limbs, place, sign = _multiplied(limbs, each.limbs), place + each.low_bit, sign * each.sign
    place = place - 32 * RUNGS[rung][0] * power
    out = np.zeros((len(limbs), width(rung, power) + 5), dtype=np.int64)
    for index in range(limbs.shape[1]):
        _scatter(out, limbs[:, index], place + _LIMB_BITS * index, sign)
    # Limbs of zero may lie beyond the last digit; what is cut off here is zero by the choice of the rung.
    return out[:, :-5]


def lift_floats(values: Floats, power: int) -> Digits:
    """Each finite float to a power, as digits on the smallest rung that holds them all."""
    return products([float_factors(values)] * power)


def lift_ints(values: Ints, power: int) -> Digits:
    """Each int64 to a power, as digits of rung 0."""
    if power == 1:
        out = np.zeros((len(values), width(0, power)), dtype=np.int64)
        out[:, 0] = values & _MASK
        out[:, 1] = values >> 32
        return out
    return products([int_factors(values)] * power)


def _multiplied(left: Ints, right: Ints) -> Ints:
    """Limb-wise products with carries done: limbs stay under 2**27, so a sum of three products fits int64."""
    out = np.zeros((len(left), left.shape[1] + right.shape[1]), dtype=np.int64)
    for i in range(left.shape[1]):
        for j in range(right.shape[1]):
            out[:, i + j] += left[:, i] * right[:, j]
        # Carried after each row, so that no column gathers more than two products at once.
        for place in range(out.shape[1] - 1):
            out[:, place + 1] += out[:, place] >> _LIMB_BITS
            out[:, place] &= _LIMB_MASK
    return out


def aligned(digits: Digits, rung: int, power: int) -> Digits:
    """The same sums on a wider rung."""
    have = rung_of(digits, power)
    if have == rung:
        return digits
    out = np.zeros((len(digits), width(rung, power)), dtype=np.int64)
    place = (RUNGS[have][0] - RUNGS[rung][0]) * power
    out[:, place : place + digits.shape[1]] = digits
    # The top digit carries the sign; on a wider rung it is an ordinary digit until the next `carried`.
    return out


def carried(digits: Digits) -> Digits:
    """The same sums with every digit in [0, 2**32) but the top one, which keeps the sign."""
    out = digits.copy()
    for place in range(digits.shape[1] - 1):
        out[:, place + 1] += out[:, place] >> 32
        out[:, place] &= _MASK
    return out


def narrowest(digits: Digits, power: int) -> npt.NDArray[np.uint8]:
    """For each carried sum the smallest rung that holds it with the headroom left free."""
    rung = rung_of(digits, power)
    need = np.full(len(digits), rung, dtype=np.uint8)
    for smaller in range(rung - 1, 0, -1):
        first = (RUNGS[smaller][0] - RUNGS[rung][0]) * power
        end = first + width(smaller, power)
        sign = np.where(digits[:, -1:] < 0, _MASK, np.int64(0))
        above = digits[:, end:].copy()
        above[:, -1] &= _MASK
        top = digits[:, end - 1]
        # Sign bits all through the digits above, and the kept top digit must show the same sign.
        fits = (digits[:, :first] == 0).all(axis=1) & (above == sign).all(axis=1)
        fits &= (top >= 1 << 31) == (sign[:, 0] != 0)
        need[fits] = smaller
    return need


def narrowed(digits: Digits, rung: int, power: int) -> Digits:
    """The same carried sums on a smaller rung, which `narrowest` said holds them."""
    have = rung_of(digits, power)
    if have == rung:
        return digits
    first = (RUNGS[rung][0] - RUNGS[have][0]) * power
    out = digits[:, first : first + width(rung, power)].copy()
    out[:, -1] = out[:, -1].astype(np.uint32).view(np.int32) if len(out) else out[:, -1]
    return out


def to_floats(digits: Digits, power: int) -> Floats:
    """Each sum rounded once, half to even; beyond the largest float it is infinite."""
    from featurestore.kernel.loops import finish

    out = np.empty(len(digits))
    finish.to_floats(np.ascontiguousarray(digits), 32 * RUNGS[rung_of(digits, power)][0] * power, out)
    return out


def to_floats_with_numpy(digits: Digits, power: int) -> Floats:
    """The same, array by array: what the compiled loop is held to."""
    magnitude, negative = _magnitude(digits)
    exponent = 32 * RUNGS[rung_of(digits, power)][0] * power
    return _rounded(magnitude, exponent, np.zeros(len(digits), dtype=np.bool_), negative)


def to_ints(digits: Digits) -> tuple[Ints, Mask]:
    """Each sum of integers as int64, and whether it fits."""
    whole = carried(digits)
    low = (whole[:, 0] | (whole[:, 1] << 32)).astype(np.int64)
    rest = np.where(low < 0, _MASK, np.int64(0))
    top = whole[:, 2:].copy()
    top[:, -1] &= _MASK
    return low, (top == rest[:, None]).all(axis=1)


def to_words(digits: Digits) -> Ints:
    """Each sum of integers as the low and high halves of 128 bits, which hold any of them: (n, 2)."""
    whole = carried(digits)
    return np.stack([whole[:, 0] | (whole[:, 1] << 32), whole[:, 2]], axis=1)


def wholes(digits: Digits, power: int) -> list[Fraction]:
    """Each sum as the fraction that it is; for finishes that need more than one division."""
    scale = Fraction(2) ** (32 * RUNGS[rung_of(digits, power)][0] * power)
    whole = carried(digits)
    raw = np.ascontiguousarray(whole[:, :-1]).astype("<u4").tobytes()
    size = 4 * (digits.shape[1] - 1)
    low = [int.from_bytes(raw[at : at + size], "little") for at in range(0, size * len(digits), size)]
    shift = 8 * size
    return [((top << shift) + rest) * scale for top, rest in zip(whole[:, -1].tolist(), low, strict=True)]


def means(digits: Digits, counts: Ints, scale: int = 0) -> Floats:
    """Each sum, in units of 10**-scale, divided by its count (over 0), correctly rounded."""
    if scale:
        return _quotients(digits, 32 * RUNGS[rung_of(digits, 1)][0], [counts, *_tens(scale, len(digits))])
    from featurestore.kernel.loops import finish

    out = np.empty(len(digits))
    exponent = 32 * RUNGS[rung_of(digits, 1)][0]
    finish.means(np.ascontiguousarray(digits), exponent, np.ascontiguousarray(counts), out)
    tiny = np.flatnonzero(np.isnan(out))
    if len(tiny):
        out[tiny] = means_with_numpy(digits[tiny], counts[tiny])
    return out


def means_with_numpy(digits: Digits, counts: Ints) -> Floats:
    """The same, array by array."""
    exponent = 32 * RUNGS[rung_of(digits, 1)][0]
    return _quotients(digits, exponent, [counts])


def variances(sums: Digits, squares: Digits, counts: Ints, ddof: int, scale: int = 0) -> Floats:
    """(n * sum of squares - square of the sum) / (n * (n - ddof)), correctly rounded; counts over ddof.

    scale  the values are in units of 10**-scale
    """
    rung = max(rung_of(sums, 1), rung_of(squares, 2))
    sums, squares = aligned(sums, rung, 1), aligned(squares, rung, 2)
    magnitude, _ = _magnitude(sums)
    halves = np.empty((len(sums), 2 * magnitude.shape[1]), dtype=np.int64)
    halves[:, 0::2], halves[:, 1::2] = magnitude & 0xFFFF, magnitude >> 16
    product = np.zeros((len(sums), 2 * halves.shape[1]), dtype=np.int64)
    for place in range(halves.shape[1]):
        product[:, place : place + halves.shape[1]] += halves[:, place, None] * halves
    square = carried(product[:, 0::2] + (product[:, 1::2] << 16))
    scaled = np.zeros_like(square)
    scaled[:, : squares.shape[1]] = carried(squares)
    scaled = carried(scaled * counts[:, None])
    exponent = 64 * RUNGS[rung][0]
    return _quotients(scaled - square, exponent, [counts, counts - ddof, *_tens(2 * scale, len(sums))])


def _tens(power: int, count: int) -> list[Ints]:
    """10**power as divisors that each stay below 2**31."""
    return [np.full(count, 10 ** min(9, power - done), dtype=np.int64) for done in range(0, power, 9)]


def _scatter(out: Digits, whole: Ints, place: Ints, sign: Ints) -> None:
    """Add sign * whole * 2**place into the digits; 0 <= whole < 2**62."""
    at, shift = place >> 5, place & 31
    rows = np.arange(len(whole))
    low = (whole & _MASK) << shift
    high = ((whole >> 32) << shift) + (low >> 32)
    out[rows, at] += sign * (low & _MASK)
    out[rows, at + 1] += sign * (high & _MASK)
    out[rows, at + 2] += sign * (high >> 32)


def _magnitude(digits: Digits) -> tuple[Digits, Mask]:
    """Absolute values as digits in [0, 2**32), one more of them, and where the sum was negative."""
    wide = np.zeros((len(digits), digits.shape[1] + 1), dtype=np.int64)
    wide[:, :-1] = digits
    wide = carried(wide)
    negative = wide[:, -1] < 0
    return carried(np.where(negative[:, None], -wide, wide)), negative


def _quotients(digits: Digits, exponent: int, divisors: list[Ints]) -> Floats:
    magnitude, negative = _magnitude(digits)
    # Two more digits below, and one a divisor, keep over 64 significant bits through divisions by up to 2**31 each.
    pad = 2 + len(divisors)
    quotient = np.zeros((len(digits), magnitude.shape[1] + pad), dtype=np.int64)
    quotient[:, pad:] = magnitude
    inexact = np.zeros(len(digits), dtype=np.bool_)
    for divisor in divisors:
        rest = np.zeros(len(digits), dtype=np.int64)
        for place in range(quotient.shape[1] - 1, -1, -1):
            rest = (rest << 32) | quotient[:, place]
            quotient[:, place], rest = rest // divisor, rest % divisor
        inexact |= rest != 0
    out = _rounded(quotient, exponent - 32 * pad, inexact, negative)
    # A subnormal quotient would be rounded twice; it is rare enough for plain fractions.
    for row in np.flatnonzero((np.abs(out) < 2.0**-1021) & (magnitude != 0).any(axis=1)):
        top = sum(int(digit) << (32 * place) for place, digit in enumerate(magnitude[row]))
        exact = Fraction(top) * Fraction(2) ** exponent
        for divisor in divisors:
            exact /= int(divisor[row])
        out[row] = float(-exact if negative[row] else exact)
    return out


def _rounded(magnitude: Digits, exponent: int, inexact: Mask, negative: Mask) -> Floats:
    """Digits in [0, 2**32) times 2**exponent as floats; `inexact` says that more bits lie below."""
    rows = np.arange(len(magnitude))
    places = magnitude.shape[1]
    top = places - 1 - np.argmax(magnitude[:, ::-1] != 0, axis=1)
    padded = np.zeros((len(magnitude), places + 2), dtype=np.uint64)
    padded[:, 2:] = magnitude
    first, second, third = (padded[rows, top + 2 - back] for back in range(3))
    lead = (32 - np.frexp(first.astype(np.float64))[1]).astype(np.uint64)  # leading zero bits of the top digit
    head = ((first << np.uint64(32)) | second) << lead
    head |= third >> (np.uint64(32) - lead)
    sticky = inexact | ((third & ((np.uint64(1) << (np.uint64(32) - lead)) - np.uint64(1))) != 0)
    below = np.arange(places)[None, :] < (top - 2)[:, None]
    sticky |= ((magnitude != 0) & below).any(axis=1)
    # 64 leading bits with a sticky last one: the one conversion to float64 rounds half to even, correctly.
    head |= sticky.astype(np.uint64)
    with np.errstate(over="ignore"):
        out = np.ldexp(head.astype(np.float64), exponent + 32 * (top - 1) - lead.astype(np.int64))
    out[(magnitude == 0).all(axis=1)] = 0.0
    signed: Floats = np.where(negative & (out != 0), -out, out)
    return signed
