"""Roll-up: the tiles that windows cover, merged straight from stored rows."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.fold import _COUNTS_AT, _TILE_WORDS, _width, is_whole, record_words
from featurestore.kernel.loops.jit import loop
from featurestore.kernel.loops.words import END_DIGIT, FIRST_DIGIT, get, ordered
from featurestore.kernel.program import (
    COUNT,
    FIRST,
    IS_FLOAT,
    KIND,
    LEAST,
    MOST,
    POWER,
    RUNG_PLACE,
    SLOT,
    SUM,
)


@loop
def all_whole(words, rungs, row_at, layout, operations, level_at, sums, header_words):  # type: ignore[no-untyped-def]
    """Whether every row is of this layout and as long as its header says."""
    for row in range(len(row_at) - 1):
        if row_at[row + 1] > row_at[row] and not is_whole(
            words, rungs, row_at, row, layout, operations, level_at, sums, header_words
        ):
            return False
    return True


@loop
def widest_rungs(rungs, row_at, levels, sums, widest):  # type: ignore[no-untyped-def]
    """The widest rung of each sum among the rows; `widest` (sums) is raised to it."""
    for row in range(len(row_at) - 1):
        if row_at[row + 1] > row_at[row]:
            rungs_at = 4 * (row_at[row] + _COUNTS_AT + levels)
            for slot in range(len(sums)):
                if sums[slot, RUNG_PLACE] >= 0:
                    widest[slot] = max(widest[slot], np.int64(rungs[rungs_at + sums[slot, RUNG_PLACE]]))


@loop
def roll_rows(  # type: ignore[no-untyped-def]
    words, rungs, row_at, operations, level_at, sums, header_words, widest,
    span_level, span_first, span_end, span_at, out, covered,
):  # fmt: skip
    """For each span (a level, and the tiles from first to before end) every partial of its level, merged.

    out      (rows, numbers) out: a span's numbers begin at `span_at`; a count has one, an extreme one, an edge four
             (event time, offset, partition, value), a sum its digits on the rung `widest`
    covered  (spans, rows) out: whether any tile was covered
    """
    levels = len(level_at) - 1
    for row in range(len(row_at) - 1):
        if row_at[row + 1] == row_at[row]:
            for span in range(len(span_level)):
                covered[span, row] = False
            continue
        rungs_at = 4 * (row_at[row] + _COUNTS_AT + levels)
        for span in range(len(span_level)):
            level = span_level[span]
            at = row_at[row] + header_words
            for before in range(level):
                count = np.int64(words[row_at[row] + _COUNTS_AT + before])
                at += count * record_words(operations, level_at, sums, before, rungs, rungs_at)
            size = record_words(operations, level_at, sums, level, rungs, rungs_at)
            end = at + size * np.int64(words[row_at[row] + _COUNTS_AT + level])
            while at < end and get(words, at) < span_first[span]:
                at += size
            while end > at and get(words, end - size) >= span_end[span]:
                end -= size
            covered[span, row] = at < end
            if at == end:
                continue
            to = span_at[span]
            word = at + _TILE_WORDS
            for index in range(level_at[level], level_at[level + 1]):
                width = _width(operations, sums, index, rungs, rungs_at)
                kind = operations[index, KIND]
                if kind == COUNT:
                    total = np.int64(0)
                    for each in range(word, end, size):
                        total += np.int64(words[each])
                    out[row, to] = total
                    to += 1
                elif kind == SUM:
                    to += _sum(out, row, to, words, word, end, size, width, rungs, rungs_at, sums, operations[index, SLOT], widest)
                elif kind == LEAST or kind == MOST:
                    out[row, to] = _extreme(words, word, end, size, kind == LEAST, operations[index, IS_FLOAT] != 0)
                    to += 1
                else:
                    _edge(out, row, to, words, word, end, size, kind, width)
                    to += 4
                word += width


@loop
def _sum(out, row, to, words, word, end, size, width, rungs, rungs_at, sums, slot, widest):  # type: ignore[no-untyped-def]
    """Digits are added without carries: of fewer than 2**31 tiles they cannot overflow."""
    full, skip = width, np.int64(0)
    place = sums[slot, RUNG_PLACE]
    if place >= 0:
        rung = np.int64(rungs[rungs_at + place])
        skip = (FIRST_DIGIT[rung] - FIRST_DIGIT[widest[slot]]) * sums[slot, POWER]
        full = (END_DIGIT[widest[slot]] - FIRST_DIGIT[widest[slot]]) * sums[slot, POWER]
        if full != width:
            for digit in range(full):
                out[row, to + digit] = 0
    if width == 4:
        d0, d1, d2, d3 = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        for each in range(word, end, size):
            d0 += np.int64(words[each])
            d1 += np.int64(words[each + 1])
            d2 += np.int64(words[each + 2])
            d3 += np.int64(np.int32(words[each + 3]))
        out[row, to + skip], out[row, to + skip + 1] = d0, d1
        out[row, to + skip + 2], out[row, to + skip + 3] = d2, d3
        return full
    for digit in range(width):
        total = np.int64(0)
        if digit == width - 1:
            for each in range(word + digit, end, size):
                total += np.int64(np.int32(words[each]))
        else:
            for each in range(word + digit, end, size):
                total += np.int64(words[each])
        out[row, to + skip + digit] = total
    return full


@loop
def _extreme(words, word, end, size, least, floats):  # type: ignore[no-untyped-def]
    best = get(words, word)
    if floats:
        best = ordered(best)
        for each in range(word + size, end, size):
            held = ordered(get(words, each))
            best = min(best, held) if least else max(best, held)
        return ordered(best)
    for each in range(word + size, end, size):
        held = get(words, each)
        best = min(best, held) if least else max(best, held)
    return best


@loop
def _edge(out, row, to, words, word, end, size, kind, width):  # type: ignore[no-untyped-def]
    best = word
    for each in range(word + size, end, size):
        us, best_us = get(words, each), get(words, best)
        offset, best_offset = get(words, each + 2), get(words, best + 2)
        partition, best_partition = np.int32(words[each + 4]), np.int32(words[best + 4])
        if us != best_us:
            earlier = us < best_us
        elif partition != best_partition:
            earlier = partition < best_partition
        else:
            earlier = offset < best_offset
        if earlier == (kind == FIRST):
            best = each
    out[row, to], out[row, to + 1], out[row, to + 2] = get(words, best), get(words, best + 2), np.int32(words[best + 4])
    out[row, to + 3] = get(words, best + 5) if width == 7 else np.int64(words[best + 5])
