"""Roll-up straight to values: the tiles that windows cover, read where the rows lie, and finished at once."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.finish import means, to_floats
from featurestore.kernel.loops.fold import _COUNTS_AT, _TILE_WORDS, has_header, is_whole, learn_widths
from featurestore.kernel.loops.jit import loop
from featurestore.kernel.loops.payloads import bytes_at, words_at
from featurestore.kernel.loops.roll_up import _sum
from featurestore.kernel.loops.rounding import mean_rounded, sum_rounded
from featurestore.kernel.loops.words import FIRST_DIGIT, get
from featurestore.kernel.program import (
    COUNT,
    COUNTER,
    FINISH,
    IS_FLOAT,
    KIND,
    LEAST,
    MEAN,
    RUNG_PLACE,
    SLOT,
    SUM,
    VALUE,
)

# The top digits of all tiles and their carries stay below this, or the sum may not fit 128 bits.
_TOPS_MAX = np.int64(1) << 30
# Where a sum is wider, or may be.
_WIDE = np.int64(1)


@loop
def roll_values(  # type: ignore[no-untyped-def]
    addresses, lengths, layout, operations, level_at, sums, header_words, known, widths, sizes, bases,
    span_level, span_first, span_end, finishes, finish_at, is_needed, out, floats, held,
):  # fmt: skip
    """Every finish of every span (a level, and the tiles from first to before end) for every row.

    addresses, lengths  (rows) where each row's bytes are, and how many; none for an entity without events
    out, floats         (finishes, rows) out: the values, 0 where there is none; the same memory as int64 and float64
    held                (finishes, rows) out: whether there is a value; of a count always
    returns             false where a row is damaged, or a value has to be found another way
    """
    levels = len(level_at) - 1
    row_at = np.zeros(2, np.int64)
    # Of each operation of the level at hand: a number or a sum of two words, and whether it is wider.
    number, low, wide = np.zeros((3, len(operations)), np.int64)
    for row in range(len(addresses)):
        row_at[1] = lengths[row] >> 2
        if lengths[row] & 3:
            return False
        words, rungs = words_at(addresses[row], row_at[1]), bytes_at(addresses[row], lengths[row])
        if row_at[1]:
            if not has_header(words, rungs, row_at, 0, layout, level_at, sums, header_words):
                return False
            rungs_at = 4 * (_COUNTS_AT + levels)
            learn_widths(operations, level_at, sums, rungs, rungs_at, known, widths, sizes, bases)
            if not is_whole(words, rungs, row_at, 0, layout, level_at, sums, sizes, header_words):
                return False
        for span in range(len(span_level)):
            level = span_level[span]
            at, end, size = np.int64(0), np.int64(0), sizes[level]
            if row_at[1]:
                at = np.int64(header_words)
                for before in range(level):
                    at += sizes[before] * np.int64(words[_COUNTS_AT + before])
                end = at + size * np.int64(words[_COUNTS_AT + level])
                while at < end and get(words, at) < span_first[span]:
                    at += size
                while end > at and get(words, end - size) >= span_end[span]:
                    end -= size
            if at < end:
                word = at + _TILE_WORDS
                for index in range(level_at[level], level_at[level + 1]):
                    kind, width = operations[index, KIND], widths[index]
                    if not is_needed[index]:
                        pass
                    elif kind == COUNT:
                        number[index] = _count(words, word, end, size)
                    elif kind == SUM:
                        number[index], low[index], wide[index] = _two_words(words, word, end, size, width)
                    else:
                        floating = operations[index, IS_FLOAT] != 0
                        number[index] = _extreme(words, word, end, size, kind == LEAST, floating)
                    word += width
            for each in range(finish_at[span], finish_at[span + 1]):
                finish, value = finishes[each, FINISH], finishes[each, VALUE]
                count = number[finishes[each, COUNTER]] if at < end else np.int64(0)
                held[each, row] = count > 0
                if finish == COUNT:
                    out[each, row], held[each, row] = count, True
                elif count == 0:
                    out[each, row] = 0
                elif finish in (SUM, MEAN):
                    slot = operations[value, SLOT]
                    has_rung = sums[slot, RUNG_PLACE] >= 0
                    exponent = 32 * FIRST_DIGIT[known[slot]] if has_rung else np.int64(0)
                    if wide[value] == _WIDE:
                        if finish == SUM and not has_rung:
                            return False
                        word = at + _TILE_WORDS
                        for index in range(level_at[level], value):
                            word += widths[index]
                        divisor = count if finish == MEAN else np.int64(0)
                        floats[each, row] = _by_digits(words, word, end, size, widths[value], exponent, divisor)
                        # The quotient may be subnormal.
                        if np.isnan(floats[each, row]):
                            return False
                    elif finish == MEAN:
                        floats[each, row] = mean_rounded(number[value], np.uint64(low[value]), exponent, count)
                    elif has_rung:
                        floats[each, row] = sum_rounded(number[value], np.uint64(low[value]), exponent)
                    else:
                        held[each, row] = number[value] == low[value] >> 63
                        out[each, row] = low[value] if held[each, row] else 0
                else:
                    out[each, row] = number[value]
    return True


# Tiles are walked by adding, since the length of a range with a step takes a division.
@loop
def _count(words, word, end, size):  # type: ignore[no-untyped-def]
    total, each, stop, step = np.int64(0), np.uint64(word), np.uint64(end), np.uint64(size)
    while each < stop:
        total += np.int64(words[each])
        each += step
    return total


@loop
def _extreme(words, word, end, size, least, floats):  # type: ignore[no-untyped-def]
    """The least or greatest value, of floats the bits. Two at a time: each comparison waits for the one before."""
    each, stop, step = np.uint64(word), np.uint64(end), np.uint64(size)
    if floats:
        sign = 1.0 if least else -1.0
        best = last = sign * _float(words, each)
        while each + step < stop:
            here, there = sign * _float(words, each), sign * _float(words, each + step)
            best, last = here if here < best else best, there if there < last else last
            each += step + step
        if each < stop:
            here = sign * _float(words, each)
            best = here if here < best else best
        # Zeros have no sign in a row, and shall have none here.
        return np.float64(sign * min(best, last) + 0.0).view(np.int64)
    found = get(words, each)
    while each < stop:
        found = min(found, get(words, each)) if least else max(found, get(words, each))
        each += step
    return found


@loop
def _float(words, at):  # type: ignore[no-untyped-def]
    return np.int64(get(words, at)).view(np.float64)


@loop
def _two_words(words, word, end, size, width):  # type: ignore[no-untyped-def]
    """The sum's high and low word; and whether it is, or may be, wider than those."""
    low, high, tops, tiles = np.uint64(0), np.int64(0), np.int64(0), np.int64(0)
    each, stop, step = np.uint64(word), np.uint64(end), np.uint64(size)
    if width == 4:
        while each < stop:
            more = np.uint64(get(words, each))
            low += more
            high += get(words, each + np.uint64(2)) + np.int64(low < more)
            tops += np.int64(np.int32(words[each + np.uint64(3)]))
            tiles += 1
            each += step
        return high, np.int64(low), np.int64(not -_TOPS_MAX < tops < _TOPS_MAX - tiles)
    if width == 3:
        while each < stop:
            more = np.uint64(get(words, each))
            low += more
            high += np.int64(np.int32(words[each + np.uint64(2)])) + np.int64(low < more)
            each += step
        return high, np.int64(low), np.int64(0)
    return high, np.int64(low), _WIDE


@loop
def _by_digits(words, word, end, size, width, exponent, count):  # type: ignore[no-untyped-def]
    digits, counts, out = np.empty((1, width), np.int64), np.empty(1, np.int64), np.empty(1)
    _sum(digits, 0, 0, words, word, end, size, width, 0, width)
    counts[0] = count
    if count:
        means(digits, exponent, counts, out)
    else:
        to_floats(digits, exponent, out)
    return out[0]
