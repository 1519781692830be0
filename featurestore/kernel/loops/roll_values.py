"""Roll-up straight to values: the tiles that windows cover, read where the rows lie, and finished at once."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.fold import _COUNTS_AT, _TILE_WORDS, has_header, learn_widths
from featurestore.kernel.loops.jit import loop
from featurestore.kernel.loops.payloads import bytes_at, words_at
from featurestore.kernel.loops.rounding import FLOAT_UNIT, mean_rounded, sum_rounded
from featurestore.kernel.loops.words import get
from featurestore.kernel.program import (
    COUNT,
    COUNTER,
    FINISH,
    FOUND_BEFORE,
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


@loop
def roll_values(  # type: ignore[no-untyped-def]
    addresses, lengths, layout, operations, level_at, sums, header_words, known, widths, sizes, bases,
    span_level, span_first, span_end, read, read_at, partner, numbers, lows,
):  # fmt: skip
    """What every span (a level, and the tiles from first to before end) has of the operations that are read, by row.

    addresses, lengths  (rows) where each row's bytes are, and how many; none for an entity without events
    read, read_at       (spans + 1) of each span the operations, in the order of its records
    partner             (reads) of a maximum of floats the read of their minimum, where there is one, which comes later
    numbers, lows       (reads, rows) out: counts, extremes, or high and low words of sums; 0 without a tile
    returns             false where a row is damaged, or a sum wider than two words
    """
    levels = len(level_at) - 1
    row_at, level_from = np.zeros(2, np.int64), np.zeros(levels + 1, np.int64)
    for row in range(len(addresses)):
        row_at[1] = lengths[row] >> 2
        words, rungs = words_at(addresses[row], row_at[1]), bytes_at(addresses[row], lengths[row])
        if row_at[1]:
            if not has_header(words, rungs, row_at, 0, layout, level_at, sums, header_words):
                return False
            learn_widths(operations, level_at, sums, rungs, 4 * (_COUNTS_AT + levels), known, widths, sizes, bases)
            level_from[0] = header_words
            for level in range(levels):
                level_from[level + 1] = level_from[level] + sizes[level] * np.int64(words[_COUNTS_AT + level])
        else:
            level_from[:] = 0
        if 4 * level_from[levels] != lengths[row]:
            return False
        for span in range(len(span_level)):
            level = span_level[span]
            at, end, size = level_from[level], level_from[level + 1], sizes[level]
            while at < end and get(words, at) < span_first[span]:
                at += size
            while end > at and get(words, end - size) >= span_end[span]:
                end -= size
            word, index = at + _TILE_WORDS, level_at[level]
            for each in range(read_at[span], read_at[span + 1]):
                while index < read[each]:
                    word += widths[index]
                    index += 1
                kind, low = operations[index, KIND], np.int64(0)
                if at == end:
                    number = np.int64(0)
                elif kind == COUNT:
                    number = _count(words, word, end, size)
                elif kind == SUM:
                    number, low, is_wide = _two_words(words, word, end, size, widths[index])
                    if is_wide:
                        return False
                elif operations[index, IS_FLOAT] == 0:
                    number = _extreme(words, word, end, size, kind == LEAST)
                elif partner[each] == FOUND_BEFORE:
                    continue
                elif partner[each] >= 0:
                    # Both in one walk, since they wait for different comparisons.
                    apart = np.int64(0)
                    for between in range(index, read[partner[each]]):
                        apart += widths[between]
                    number, least = _float_extremes(words, word, apart, end, size)
                    numbers[partner[each], row] = least
                else:
                    most, least = _float_extremes(words, word, np.int64(0), end, size)
                    number = least if kind == LEAST else most
                numbers[each, row], lows[each, row] = number, low
    return True


@loop
def finish_values(operations, sums, read, finishes, numbers, lows, out, floats, held):  # type: ignore[no-untyped-def]
    """Every finish for every row, from what `roll_values` found.

    out, floats  (finishes, rows) out: the values, 0 where there is none; the same memory as int64 and float64
    held         (finishes, rows) out: whether there is a value; of a count always
    """
    for each in range(len(finishes)):
        finish, counter, value = finishes[each, FINISH], finishes[each, COUNTER], finishes[each, VALUE]
        counts, high, low = numbers[counter], numbers[value], lows[value]
        operation = read[value]
        is_whole = operations[operation, KIND] != SUM or sums[operations[operation, SLOT], RUNG_PLACE] < 0
        exponent = 0 if is_whole else FLOAT_UNIT
        for row in range(len(counts)):
            there = counts[row] > 0
            if finish == MEAN:
                floats[each, row] = mean_rounded(high[row], np.uint64(low[row]), exponent, max(counts[row], 1))
            elif finish == SUM and not is_whole:
                floats[each, row] = sum_rounded(high[row], np.uint64(low[row]), exponent)
            elif finish == SUM:
                there &= high[row] == low[row] >> 63
                out[each, row] = low[row] if there else 0
            else:
                out[each, row] = high[row] if there else 0
            held[each, row] = there or finish == COUNT


# Tiles are walked by adding, since the length of a range with a step takes a division.
@loop
def _count(words, word, end, size):  # type: ignore[no-untyped-def]
    total, each, stop, step = np.int64(0), np.uint64(word), np.uint64(end), np.uint64(size)
    while each < stop:
        total += np.int64(words[each])
        each += step
    return total


@loop
def _extreme(words, word, end, size, least):  # type: ignore[no-untyped-def]
    each, stop, step = np.uint64(word), np.uint64(end), np.uint64(size)
    found = get(words, each)
    while each < stop:
        found = min(found, get(words, each)) if least else max(found, get(words, each))
        each += step
    return found


@loop
def _float_extremes(words, word, apart, end, size):  # type: ignore[no-untyped-def]
    """The greatest of the floats at a word of each tile, and the least of those so many words further, as bits."""
    each, stop, step, further = np.uint64(word), np.uint64(end), np.uint64(size), np.uint64(apart)
    most, least = _float(words, each), _float(words, each + further)
    while each < stop:
        high, low = _float(words, each), _float(words, each + further)
        most, least = high if high > most else most, low if low < least else least
        each += step
    # Which zero came first may not show.
    return np.float64(most + 0.0).view(np.int64), np.float64(least + 0.0).view(np.int64)


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
        return high, np.int64(low), not -_TOPS_MAX < tops < _TOPS_MAX - tiles
    if width == 3:
        while each < stop:
            more = np.uint64(get(words, each))
            low += more
            high += np.int64(np.int32(words[each + np.uint64(2)])) + np.int64(low < more)
            each += step
        return high, np.int64(low), False
    return high, np.int64(low), True
