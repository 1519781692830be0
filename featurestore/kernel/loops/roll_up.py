"""Roll-up: the tiles that windows cover, merged straight from stored rows."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.fold import _COUNTS_AT, _TILE_WORDS, has_header, is_whole, learn_widths
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
    SLOT,
    SUM,
)


@loop
def look(  # type: ignore[no-untyped-def]
    words, rungs, row_at, layout, operations, level_at, sums, header_words, known, widths, sizes, bases, widest
):  # fmt: skip
    """Whether every row is what its header says; `widest` (sums) is raised to the widest rung of each sum."""
    for row in range(len(row_at) - 1):
        if row_at[row + 1] == row_at[row]:
            continue
        if not has_header(words, rungs, row_at, row, layout, level_at, sums, header_words):
            return False
        rungs_at = 4 * (row_at[row] + _COUNTS_AT + len(level_at) - 1)
        learn_widths(operations, level_at, sums, rungs, rungs_at, known, widths, sizes, bases)
        if not is_whole(words, rungs, row_at, row, layout, level_at, sums, sizes, header_words):
            return False
        for slot in range(len(sums)):
            widest[slot] = max(widest[slot], known[slot])
    return True


@loop
def roll_rows(  # type: ignore[no-untyped-def]
    words, rungs, row_at, operations, level_at, sums, header_words, known, widths, sizes, bases, widest,
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
        learn_widths(operations, level_at, sums, rungs, rungs_at, known, widths, sizes, bases)
        for span in range(len(span_level)):
            level = span_level[span]
            at = row_at[row] + header_words
            for before in range(level):
                at += sizes[before] * np.int64(words[row_at[row] + _COUNTS_AT + before])
            size = sizes[level]
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
                width = widths[index]
                kind = operations[index, KIND]
                if kind == COUNT:
                    total = np.int64(0)
                    for each in range(word, end, size):
                        total += np.int64(words[each])
                    out[row, to] = total
                    to += 1
                elif kind == SUM:
                    slot = operations[index, SLOT]
                    first = FIRST_DIGIT[widest[slot]] * sums[slot, POWER]
                    full = END_DIGIT[widest[slot]] * sums[slot, POWER] - first
                    _sum(out, row, to, words, word, end, size, width, bases[slot] - first, full)
                    to += full
                elif kind in (LEAST, MOST):
                    out[row, to] = _extreme(words, word, end, size, kind == LEAST, operations[index, IS_FLOAT] != 0)
                    to += 1
                else:
                    _edge(out, row, to, words, word, end, size, kind, width)
                    to += 4
                word += width


@loop
def _sum(out, row, to, words, word, end, size, width, skip, full):  # type: ignore[no-untyped-def]
    """Digits are added without carries: of fewer than 2**31 tiles they cannot overflow."""
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
        return
    for digit in range(width):
        total = np.int64(0)
        if digit == width - 1:
            for each in range(word + digit, end, size):
                total += np.int64(np.int32(words[each]))
        else:
            for each in range(word + digit, end, size):
                total += np.int64(words[each])
        out[row, to + skip + digit] = total


@loop
def _extreme(words, word, end, size, least, floats):  # type: ignore[no-untyped-def]
    best = ordered(get(words, word)) if floats else get(words, word)
    for each in range(np.uint64(word + size), np.uint64(end), np.uint64(size)):
        held = ordered(get(words, each)) if floats else get(words, each)
        best = min(best, held) if least else max(best, held)
    return ordered(best) if floats else best


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
