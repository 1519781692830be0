"""The join's loops: where a moment falls among sorted events, and partials over many overlapping ranges of them."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop
from featurestore.kernel.loops.words import ordered

_FRACTION = np.int64((1 << 52) - 1)
_MINUS_ZERO = np.int64(np.iinfo(np.int64).min)
_BLOCK_BITS = 4
_BLOCK = 1 << _BLOCK_BITS


@loop
def in_order(row, event_us, partition, offset):  # type: ignore[no-untyped-def]
    """Whether events are by (row, event time, partition, offset) already, as most logs are."""
    for index in range(1, len(row)):
        if row[index] != row[index - 1]:
            if row[index] < row[index - 1]:
                return False
        elif event_us[index] != event_us[index - 1]:
            if event_us[index] < event_us[index - 1]:
                return False
        elif partition[index] != partition[index - 1]:
            if partition[index] < partition[index - 1]:
                return False
        elif offset[index] < offset[index - 1]:
            return False
    return True


@loop
def places(row, event_us, asked_row, asked_us, after, out):  # type: ignore[no-untyped-def]
    """How many events come before each (row, moment); with `after`, those of that very moment too.

    Looks near the last answer first: moments that rise cost a few steps each, others a binary search.
    """
    total = len(row)
    at = np.int64(0)
    for index in range(len(asked_row)):
        entity, moment = asked_row[index], asked_us[index]
        step = np.int64(1)
        if at < total and _before(row[at], event_us[at], entity, moment, after):
            low, high = at + 1, at + 1
            while high < total and _before(row[high], event_us[high], entity, moment, after):
                low = high + 1
                high += step
                step *= 2
            high = min(high, np.int64(total))
        else:
            low, high = at - 1, at
            while low >= 0 and not _before(row[low], event_us[low], entity, moment, after):
                high = low
                low -= step
                step *= 2
            low = max(low + 1, np.int64(0))
        while low < high:
            middle = (low + high) >> 1
            if _before(row[middle], event_us[middle], entity, moment, after):
                low = middle + 1
            else:
                high = middle
        at = low
        out[index] = at


@loop
def _before(row, event_us, entity, moment, after):  # type: ignore[no-untyped-def]
    if row != entity:
        return row < entity
    return event_us <= moment if after else event_us < moment


@loop
def fits_narrow(bits, valid):  # type: ignore[no-untyped-def]
    """Whether all floats are multiples of 2**-64 below 2**31: so ordinary that 128 bits hold any sum of them."""
    for index in range(len(bits)):
        if not valid[index]:
            continue
        exponent = ((bits[index] >> 52) & 0x7FF) - 1075
        whole = bits[index] & _FRACTION
        if exponent + 53 > 31:
            return False
        if exponent < -64:
            if exponent == -1075:
                if whole:
                    return False
            elif exponent < -116 or (whole | (np.int64(1) << 52)) & ((np.int64(1) << (-64 - exponent)) - 1):
                return False
    return True


@loop
def sum_floats(bits, valid, prefix):  # type: ignore[no-untyped-def]
    """Running sums in units of 2**-64, in two's complement: `prefix` (n + 1, 2) low and high 64 bits."""
    low, high = np.uint64(0), np.uint64(0)
    prefix[0, 0] = prefix[0, 1] = np.uint64(0)
    for index in range(len(bits)):
        exponent = (bits[index] >> 52) & 0x7FF
        if valid[index] and exponent:
            whole = np.uint64((bits[index] & _FRACTION) | (np.int64(1) << 52))
            shift = exponent - 1075 + 64
            if shift >= 0:
                add_low = whole << np.uint64(shift)
                add_high = (whole >> np.uint64(1)) >> np.uint64(63 - shift)
            else:
                add_low = whole >> np.uint64(-shift)
                add_high = np.uint64(0)
            if bits[index] < 0:
                high -= add_high + (np.uint64(1) if low < add_low else np.uint64(0))
                low -= add_low
            else:
                low += add_low
                high += add_high + (np.uint64(1) if low < add_low else np.uint64(0))
        prefix[index + 1, 0], prefix[index + 1, 1] = low, high


@loop
def sum_ints(numbers, valid, prefix):  # type: ignore[no-untyped-def]
    """Running sums of int64 as `sum_floats` gives them, in units of one."""
    low, high = np.uint64(0), np.uint64(0)
    prefix[0, 0] = prefix[0, 1] = np.uint64(0)
    for index in range(len(numbers)):
        if valid[index]:
            add = np.uint64(numbers[index])
            low += add
            high += np.uint64(numbers[index] >> 63) + (np.uint64(1) if low < add else np.uint64(0))
        prefix[index + 1, 0], prefix[index + 1, 1] = low, high


@loop
def differences(prefix, low, high, digits):  # type: ignore[no-untyped-def]
    """Sums of the ranges as digits (m, 3 or 4), the last one signed."""
    for index in range(len(low)):
        begin, end = low[index], high[index]
        less = prefix[end, 0] - prefix[begin, 0]
        more = prefix[end, 1] - prefix[begin, 1] - (np.uint64(1) if prefix[end, 0] < prefix[begin, 0] else np.uint64(0))
        digits[index, 0] = np.int64(less & np.uint64(0xFFFF_FFFF))
        digits[index, 1] = np.int64(less >> np.uint64(32))
        if digits.shape[1] == 3:
            digits[index, 2] = np.int64(more)
        else:
            digits[index, 2] = np.int64(more & np.uint64(0xFFFF_FFFF))
            digits[index, 3] = np.int64(more) >> 32


@loop
def count_valid(valid, prefix):  # type: ignore[no-untyped-def]
    """How many values there are before each event: `prefix` (n + 1)."""
    total = np.int64(0)
    prefix[0] = 0
    for index in range(len(valid)):
        total += valid[index]
        prefix[index + 1] = total


@loop
def keys_of(numbers, valid, floats, empty, keys):  # type: ignore[no-untyped-def]
    """Integers in the order of the values (of floats the bits are given), -0.0 as 0.0, nulls as `empty`."""
    for index in range(len(numbers)):
        number = numbers[index]
        if floats:
            number = np.int64(0) if number == _MINUS_ZERO else ordered(number)
        keys[index] = number if valid[index] else empty


@loop
def block_extremes(keys, sign):  # type: ignore[no-untyped-def]
    """The least (sign 1) or greatest (-1) key of 2**level blocks of events from each one on, by (level, block)."""
    blocks = (len(keys) + _BLOCK - 1) >> _BLOCK_BITS
    levels = 1
    while 1 << levels <= blocks:
        levels += 1
    table = np.empty((levels, blocks), np.int64)
    for block in range(blocks):
        best = keys[block << _BLOCK_BITS]
        for index in range(block << _BLOCK_BITS, min((block + 1) << _BLOCK_BITS, len(keys))):
            best = min(best, keys[index]) if sign > 0 else max(best, keys[index])
        table[0, block] = best
    for level in range(1, levels):
        half = 1 << (level - 1)
        for block in range(blocks - 2 * half + 1):
            left, right = table[level - 1, block], table[level - 1, block + half]
            table[level, block] = min(left, right) if sign > 0 else max(left, right)
    return table


@loop
def extremes(keys, sign, table, low, high, floats, out):  # type: ignore[no-untyped-def]
    """The least (sign 1) or greatest (-1) value of each range; of floats the bits."""
    for index in range(len(low)):
        begin, end = low[index], high[index]
        first, last = (begin + _BLOCK - 1) >> _BLOCK_BITS, end >> _BLOCK_BITS
        best = keys[begin]
        if first >= last:
            for event in range(begin, end):
                best = min(best, keys[event]) if sign > 0 else max(best, keys[event])
        else:
            for event in range(begin, first << _BLOCK_BITS):
                best = min(best, keys[event]) if sign > 0 else max(best, keys[event])
            for event in range(last << _BLOCK_BITS, end):
                best = min(best, keys[event]) if sign > 0 else max(best, keys[event])
            # Any stretch of blocks is two of those in the table.
            level = 0
            while 2 << level <= last - first:
                level += 1
            left, right = table[level, first], table[level, last - (1 << level)]
            other = min(left, right) if sign > 0 else max(left, right)
            best = min(best, other) if sign > 0 else max(best, other)
        out[index] = ordered(best) if floats else best
