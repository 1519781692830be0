"""The join's loops: where a moment falls among sorted events, and partials over many overlapping ranges of them."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop
from featurestore.kernel.loops.rounding import mean_rounded, sum_rounded
from featurestore.kernel.loops.words import ordered

# A float below 2**31 that is a multiple of 2**-64 is a multiple of 2**-17 and a rest, of 48 and of 47 bits.
_ORDINARY = 2.0**31
_UPPER, _LOWER, _LOWER_BITS = 2.0**17, 2.0**47, 47
_HALF_BITS, _HALF = 32, np.int64(0xFFFF_FFFF)
_FAR_END = np.int64(np.iinfo(np.int64).max)
_NEAR_END = np.int64(np.iinfo(np.int64).min)
# Keys of the infinities: what floats give where there are none.
_INFINITY = np.int64(0x7FF0_0000_0000_0000)
_MINUS_INFINITY = np.int64(-_INFINITY - 1)
# A place that none is equal to, and no parts of its block.
_NOTHING_HELD = (np.int64(-1), np.int64(0), np.int64(0))
BLOCK_BITS = 6
SUM_BITS = 4
_STRIDE = 16
_STRIDES = 4


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
    begin, end, at = np.int64(0), np.int64(0), np.int64(0)
    for index in range(len(asked_row)):
        entity, moment = asked_row[index], asked_us[index]
        if index == 0 or entity != asked_row[index - 1]:
            begin = _near(row, np.int64(0), np.int64(len(row)), begin, entity, False)
            end = _near(row, begin, np.int64(len(row)), begin, entity, True)
            at = begin
        elif moment == asked_us[index - 1]:
            # Many windows begin at the same edge of a tile.
            out[index] = at
            continue
        at = _near(event_us, begin, end, at, moment, after)
        out[index] = at


@loop
def _near(numbers, begin, end, start, asked, after):  # type: ignore[no-untyped-def]
    """The first place from begin to end whose number does not come before what is asked, looked for from start on."""
    low, high, step = start, start, np.int64(_STRIDE)
    if start < end and _before(numbers[np.uint64(start)], asked, after):
        # A few at a time without a choice between them, which is faster than halving.
        for _ in range(_STRIDES):
            if low + _STRIDE > end:
                break
            found = np.int64(0)
            for each in range(np.uint64(low), np.uint64(low) + np.uint64(_STRIDE)):
                found += _before(numbers[each], asked, after)
            low += found
            if found < _STRIDE:
                return low
        high = low
        while high < end and _before(numbers[np.uint64(high)], asked, after):
            low = high + 1
            high += step
            step *= 2
        high = min(high, end)
    else:
        low = start - 1
        while low >= begin and not _before(numbers[np.uint64(low)], asked, after):
            high = low
            low -= step
            step *= 2
        low = max(low + 1, begin)
    while low < high:
        middle = (low + high) >> 1
        if _before(numbers[np.uint64(middle)], asked, after):
            low = middle + 1
        else:
            high = middle
    return low


@loop
def _before(number, asked, after):  # type: ignore[no-untyped-def]
    return number <= asked if after else number < asked


@loop
def block_sums(numbers, valid, floats, prefix):  # type: ignore[no-untyped-def]
    """Sums of all events before each block, in two's complement: `prefix` (blocks, 2) low and high 64 bits.

    Of integers in units of one, of floats (whose bits are given) in units of 2**-64. False where a float is no multiple
    of that below 2**31: only of such ordinary ones 128 bits hold any sum.
    """
    sums, given = (np.uint64(0), np.uint64(0)), numbers.view(np.float64)
    for block in range(len(prefix)):
        prefix[block, 0], prefix[block, 1] = sums
        begin, end = block << SUM_BITS, min((block + 1) << SUM_BITS, len(numbers))
        if floats and end - begin == 1 << SUM_BITS:
            upper, lower, odd = _block_of_floats(given, valid, begin)
        else:
            upper, lower, odd = np.int64(0), np.int64(0), np.int64(0)
            for index in range(np.uint64(begin), np.uint64(end)):
                if valid[index]:
                    above, below = _parts(numbers, given, index, floats)
                    upper, lower = upper + above, lower + below
                    odd += _is_odd(given[index]) if floats else 0
        if odd:
            return False
        sums = _added(sums[0], sums[1], upper, lower, floats)
    return True


@loop
def _block_of_floats(given, valid, begin):  # type: ignore[no-untyped-def]
    """The parts of a block's sum, and how many of its values are not ordinary.

    As many steps as are known when this is compiled become few instructions, each on many events.
    """
    upper, lower, odd = np.int64(0), np.int64(0), np.int64(0)
    for index in range(np.uint64(begin), np.uint64(begin) + np.uint64(1 << SUM_BITS)):
        number = given[index] if valid[index] else 0.0
        above, below = _float_parts(number)
        upper, lower = upper + above, lower + below
        odd += _is_odd(number)
    return upper, lower, odd


@loop
def _is_odd(number):  # type: ignore[no-untyped-def]
    """1 of floats whose parts are not all of it."""
    upper = number * _UPPER
    lower = (upper - float(np.int64(upper))) * _LOWER
    return np.int64((lower != float(np.int64(lower))) | (abs(number) >= _ORDINARY))


@loop
def _float_parts(number):  # type: ignore[no-untyped-def]
    upper = number * _UPPER
    whole = np.int64(upper)
    return whole, np.int64((upper - float(whole)) * _LOWER)


@loop
def _parts(numbers, given, index, floats):  # type: ignore[no-untyped-def]
    """A number in two whole ones, which do not overflow in as many sums as a block has events."""
    if floats:
        return _float_parts(given[index])
    return numbers[index] >> _HALF_BITS, numbers[index] & _HALF


@loop
def _added(low, high, upper, lower, floats):  # type: ignore[no-untyped-def]
    """The sum in two words, with one in parts added."""
    bits = _LOWER_BITS if floats else _HALF_BITS
    add_low, add_high = np.uint64(upper) << np.uint64(bits), np.uint64(upper >> (64 - bits))
    total = low + add_low
    high += add_high + np.uint64(total < add_low)
    low = total + np.uint64(lower)
    return low, high + np.uint64(lower >> 63) + np.uint64(low < np.uint64(lower))


@loop
def _sum_before(numbers, given, valid, floats, prefix, place, held):  # type: ignore[no-untyped-def]
    """The sum of all events before a place; and `held`, where the last one ended and the parts of its block.

    From there on, where it is the same block.
    """
    at, upper, lower = held
    block = place >> SUM_BITS
    if at > place or at >> SUM_BITS != block:
        at, upper, lower = block << SUM_BITS, np.int64(0), np.int64(0)
    index = np.uint64(at)
    # Not `for`: the few steps that there are would be made ready for many at once, which costs more than they do.
    while index < np.uint64(place):
        if valid[index]:
            above, below = _parts(numbers, given, index, floats)
            upper, lower = upper + above, lower + below
        index += np.uint64(1)
    return _added(prefix[block, 0], prefix[block, 1], upper, lower, floats), (place, upper, lower)


@loop
def sums_before(numbers, valid, floats, prefix, places, sums):  # type: ignore[no-untyped-def]
    """The sum of all events before each place: `sums` (m, 2) out."""
    given, held, found = numbers.view(np.float64), _NOTHING_HELD, (np.uint64(0), np.uint64(0))
    for index in range(len(places)):
        if index == 0 or places[index] != places[index - 1]:
            found, held = _sum_before(numbers, given, valid, floats, prefix, places[index], held)
        sums[index, 0], sums[index, 1] = found


@loop
def _difference(more, less):  # type: ignore[no-untyped-def]
    """What one sum has more than another, as a high and a low word."""
    borrow = np.uint64(more[0] < less[0])
    return np.int64(more[1] - less[1] - borrow), more[0] - less[0]


@loop
def differences(more, less, digits):  # type: ignore[no-untyped-def]
    """Sums of ranges as digits (m, 3 or 4), the last one signed."""
    for index in range(len(digits)):
        high_word, low_word = _difference(more[index], less[index])
        digits[index, 0] = np.int64(low_word & np.uint64(0xFFFF_FFFF))
        digits[index, 1] = np.int64(low_word >> np.uint64(32))
        if digits.shape[1] == 3:
            digits[index, 2] = high_word
        else:
            digits[index, 2] = high_word & np.int64(0xFFFF_FFFF)
            digits[index, 3] = high_word >> 32


@loop
def count_valid(valid, prefix):  # type: ignore[no-untyped-def]
    """How many values there are before each event: `prefix` (n + 1)."""
    total = np.int64(0)
    prefix[0] = 0
    for index in range(len(valid)):
        total += valid[index]
        prefix[index + 1] = total


@loop
def block_extremes(numbers, valid, floats, least, most):  # type: ignore[no-untyped-def]
    """The least and greatest key of 2**level blocks of events from each one on, both (levels, blocks).

    numbers  int64, or the bits of floats; keys are integers in the order of the values
    """
    nothing = _nothing(floats)
    for block in range(least.shape[1]):
        begin = block << BLOCK_BITS
        end = min(begin + (1 << BLOCK_BITS), len(numbers))
        least[0, block], most[0, block] = _reached(numbers, valid, floats, begin, end, nothing)
    for level in range(1, least.shape[0]):
        half = 1 << (level - 1)
        for block in range(least.shape[1] - 2 * half + 1):
            least[level, block] = min(least[level - 1, block], least[level - 1, block + half])
            most[level, block] = max(most[level - 1, block], most[level - 1, block + half])


@loop
def _nothing(floats):  # type: ignore[no-untyped-def]
    """The least and greatest key of no values."""
    return (_INFINITY, _MINUS_INFINITY) if floats else (_FAR_END, _NEAR_END)


@loop
def _reached(numbers, valid, floats, begin, end, before):  # type: ignore[no-untyped-def]
    """The least and greatest key of those before and of some events."""
    least, most = before
    for index in range(np.uint64(begin), np.uint64(end)):
        number = numbers[index]
        if floats:
            # The bits of -0.0 are those of the smallest int64: which zero came first may not show.
            number = np.int64(0) if number == _NEAR_END else ordered(number)
        there = valid[index]
        least, most = min(least, number if there else before[0]), max(most, number if there else before[1])
    return least, most


@loop
def newest_extremes(numbers, valid, floats, high, least, most):  # type: ignore[no-untyped-def]
    """The least and greatest key from the beginning of the block in which each range ends."""
    at, held = np.int64(0), _nothing(floats)
    for index in range(len(high)):
        end = high[index]
        begin = (end >> BLOCK_BITS) << BLOCK_BITS
        if at < begin or at > end:
            at, held = begin, _nothing(floats)
        held = _reached(numbers, valid, floats, at, end, held)
        at = end
        least[index], most[index] = held


@loop
def extremes(  # type: ignore[no-untyped-def]
    numbers, valid, floats, least, most, newest_least, newest_most, counts, low, high, out_least, out_most
):  # fmt: skip
    """The least and greatest value of each range, of floats the bits; 0 where it has no values.

    least, most                as `block_extremes` gives them
    newest_least, newest_most  as `newest_extremes` gives them for `high`
    counts                     (m) how many values each range has
    """
    nothing = _nothing(floats)
    # Neighbouring ranges begin at the same event or end in the same block, often both.
    head_at, head = np.int64(-1), nothing
    body_from, body_to, body, level = np.int64(-1), np.int64(-1), nothing, 0
    for index in range(len(low)):
        if counts[index] <= 0:
            out_least[index] = out_most[index] = 0
            continue
        begin, end = low[index], high[index]
        first, last = (begin + (1 << BLOCK_BITS) - 1) >> BLOCK_BITS, end >> BLOCK_BITS
        if first > last:
            held = _reached(numbers, valid, floats, begin, end, nothing)
        else:
            if begin != head_at:
                head_at, head = begin, _reached(numbers, valid, floats, begin, first << BLOCK_BITS, nothing)
            if first != body_from or last != body_to:
                body_from, body_to, body = first, last, nothing
                if first < last:
                    # Any stretch of blocks is two of those in the table.
                    while 2 << level <= last - first:
                        level += 1
                    while 1 << level > last - first:
                        level -= 1
                    other = last - (1 << level)
                    body = (
                        min(least[level, first], least[level, other]),
                        max(most[level, first], most[level, other]),
                    )
            held = (
                min(min(head[0], body[0]), newest_least[index]),
                max(max(head[1], body[1]), newest_most[index]),
            )
        out_least[index] = ordered(held[0]) if floats else held[0]
        out_most[index] = ordered(held[1]) if floats else held[1]


@loop
def sums_and_means(  # type: ignore[no-untyped-def]
    numbers, valid, floats, prefix, before, low, counts, exponent, sums, means
):  # fmt: skip
    """The sum and the mean of each range, rounded once; 0 where it has no values.

    prefix       as `block_sums` gives it, in units of 2**exponent
    before       (m, 2) sums of all events before the ends, as `sums_before` gives them
    low, counts  (m) where each range begins, and how many values it has
    sums, means  (m) out, or without length where it is not asked for
    """
    given, held, less = numbers.view(np.float64), _NOTHING_HELD, (np.uint64(0), np.uint64(0))
    for index in range(len(counts)):
        high_word, low_word = np.int64(0), np.uint64(0)
        if counts[index] > 0:
            if low[index] != held[0]:
                less, held = _sum_before(numbers, given, valid, floats, prefix, low[index], held)
            high_word, low_word = _difference((before[index, 0], before[index, 1]), less)
        if len(sums):
            sums[index] = sum_rounded(high_word, low_word, exponent)
        if len(means):
            means[index] = mean_rounded(high_word, low_word, exponent, max(counts[index], 1))


@loop
def whole_sums(more, less, counts, sums, fits):  # type: ignore[no-untyped-def]
    """The sum of each range of integers, and whether it is one and fits int64; elsewhere 0."""
    for index in range(len(counts)):
        fits[index], sums[index] = False, 0
        if counts[index] > 0:
            high_word, low_word = _difference(more[index], less[index])
            if high_word == np.int64(low_word) >> 63:
                fits[index], sums[index] = True, np.int64(low_word)


@loop
def counts_of(prefix, low, high, counts):  # type: ignore[no-untyped-def]
    """How many values each range has; every event has one where `prefix` has no length."""
    for index in range(len(low)):
        begin, end = low[index], max(low[index], high[index])
        counts[index] = prefix[end] - prefix[begin] if len(prefix) else end - begin
