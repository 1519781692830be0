"""Numbers in words of 32 bits, and exact sums as digits of 32 bits in two's complement."""

from __future__ import annotations

import numpy as np

from featurestore.kernel import exact
from featurestore.kernel.loops.jit import loop
from featurestore.kernel.program import FACTORS, POWER

MASK = np.int64(0xFFFF_FFFF)
_LIMB_BITS = 27
_LIMB_MASK = np.int64((1 << _LIMB_BITS) - 1)
_FRACTION = np.int64((1 << 52) - 1)
_HEADROOM_BITS = 32
_LIMBS_MAX = 12
FIRST_DIGIT = np.array([first for first, _ in exact.RUNGS], dtype=np.int64)
END_DIGIT = np.array([end for _, end in exact.RUNGS], dtype=np.int64)
# What no rung holds.
_NO_RUNG = len(exact.RUNGS)


@loop
def get(words, at):  # type: ignore[no-untyped-def]
    """The int64 in two words."""
    # Without a sign, since a place may otherwise be counted from the end, and two loads do not become one.
    place = np.uint64(at)
    return np.int64(words[place]) | (np.int64(words[place + np.uint64(1)]) << 32)


@loop
def put(words, at, number):  # type: ignore[no-untyped-def]
    place = np.uint64(at)
    words[place] = np.uint32(number & MASK)
    words[place + np.uint64(1)] = np.uint32((number >> 32) & MASK)


@loop
def ordered(bits):  # type: ignore[no-untyped-def]
    """The bits of a float as an int64 that is in the order of the floats."""
    return bits ^ ((bits >> 63) & np.int64(0x7FFF_FFFF_FFFF_FFFF))


@loop
def lift(values, valid, is_float, sums, digits, size, first, sign, rung):  # type: ignore[no-untyped-def]
    """What each event adds to each sum.

    values, valid  (columns, n) as `Program.numbers` gives them
    sums           the program's table
    digits         (n, sums, DIGITS_MAX) out: how much, without a sign, from digit `first` on
    size           (n, sums) out: how many digits that is
    first          (n, sums) out: the place of the first digit, counted from 2**0
    sign           (n, sums) out: 1, -1, or 0 where nothing is added
    rung           (n, sums) out: the smallest rung that has room for it and 2**31 of its kind
    """
    limbs = np.zeros(_LIMBS_MAX, np.int64)
    grown = np.zeros(_LIMBS_MAX + 3, np.int64)
    for index in range(values.shape[1]):
        for place in range(sums.shape[0]):
            power = sums[place, POWER]
            rung[index, place] = 1
            sign[index, place] = 0
            count, low_bit, high_bit, zeros, signed = 0, 0, 0, 0, 1
            for factor in range(power):
                column = sums[place, FACTORS + factor]
                number = values[column, index]
                if not valid[column, index]:
                    signed = 0
                    break
                if is_float[column]:
                    fraction, exponent = number & _FRACTION, (number >> 52) & 0x7FF
                    whole = fraction | (np.int64(1) << 52) if exponent else fraction
                    exponent = max(exponent, 1) - 1075
                    wide = 2
                    l0, l1, l2 = whole & _LIMB_MASK, whole >> _LIMB_BITS, np.int64(0)
                    high_bit += exponent + 53
                else:
                    # Of the smallest int64 the size is itself, read without a sign.
                    whole = -number if number < 0 else number
                    exponent, wide = np.int64(0), 3
                    l0, l1 = whole & _LIMB_MASK, (whole >> _LIMB_BITS) & _LIMB_MASK
                    l2 = (whole >> (2 * _LIMB_BITS)) & 0x3FF
                    high_bit += 64
                if whole == 0:
                    signed = 0
                    break
                if number < 0:
                    signed = -signed
                low_bit += exponent
                zeros += _trailing_zeros(whole)
                if count == 0:
                    limbs[0], limbs[1], limbs[2] = l0, l1, l2
                    count = wide
                else:
                    for k in range(count + wide):
                        grown[k] = 0
                    for j in range(wide):
                        by = l0 if j == 0 else (l1 if j == 1 else l2)
                        carry = np.int64(0)
                        for k in range(count):
                            held = grown[k + j] + limbs[k] * by + carry
                            grown[k + j] = held & _LIMB_MASK
                            carry = held >> _LIMB_BITS
                        grown[count + j] += carry
                    count += wide
                    for k in range(count):
                        limbs[k] = grown[k]
            if signed == 0:
                continue
            sign[index, place] = signed
            if sums[place, 1] >= 0:
                rung[index, place] = _rung_for(low_bit + zeros, high_bit, power)
            shift = low_bit & 31
            first[index, place] = low_bit >> 5
            held, bits, at = np.int64(0), shift, 0
            # Limbs of 27 bits are poured into digits of 32.
            for k in range(count):
                held |= limbs[k] << bits
                bits += _LIMB_BITS
                if bits >= 32:
                    digits[index, place, at] = np.uint32(held & MASK)
                    held >>= 32
                    bits -= 32
                    at += 1
            while held != 0:
                digits[index, place, at] = np.uint32(held & MASK)
                held >>= 32
                at += 1
            size[index, place] = at


@loop
def _trailing_zeros(whole):  # type: ignore[no-untyped-def]
    zeros = 0
    while (whole & 0xFF) == 0:
        whole >>= 8
        zeros += 8
    while (whole & 1) == 0:
        whole >>= 1
        zeros += 1
    return zeros


@loop
def _rung_for(lowest, highest, power):  # type: ignore[no-untyped-def]
    for rung in range(1, len(FIRST_DIGIT)):
        if 32 * FIRST_DIGIT[rung] * power <= lowest and highest + _HEADROOM_BITS <= 32 * END_DIGIT[rung] * power - 1:
            return rung
    return _NO_RUNG


@loop
def fits_narrower(words, at, rung, power):  # type: ignore[no-untyped-def]
    """Whether the sum, which stands on `rung`, would fit the next smaller one."""
    below = (FIRST_DIGIT[rung - 1] - FIRST_DIGIT[rung]) * power
    width = (END_DIGIT[rung] - FIRST_DIGIT[rung]) * power
    end = below + (END_DIGIT[rung - 1] - FIRST_DIGIT[rung - 1]) * power
    for place in range(below):
        if words[at + place] != 0:
            return False
    sign = MASK if words[at + width - 1] >> 31 else np.int64(0)
    for place in range(end, width):
        if np.int64(words[at + place]) != sign:
            return False
    return (words[at + end - 1] >> 31 != 0) == (sign != 0)
