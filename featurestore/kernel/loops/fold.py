"""Fold: stored rows and sorted events in, rows out, record by record."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop
from featurestore.kernel.loops.words import END_DIGIT, FIRST_DIGIT, MASK, add, fits_narrower, get, ordered, put
from featurestore.kernel.program import (
    COLUMN,
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
    WORDS,
)

_NO_EVENT = np.int64(np.iinfo(np.int64).min)
_FAR_END = np.int64(np.iinfo(np.int64).max)
# The infinities' bits, which an empty minimum or maximum of floats holds.
_INFINITY = np.int64(0x7FF0_0000_0000_0000)
_MINUS_INFINITY = np.int64(np.array(-np.inf).view(np.int64))
_TILE_WORDS = 2
_COUNTS_AT = 3


@loop
def by_row(row, event_us, partition, offset, rows):  # type: ignore[no-untyped-def]
    """Events by row, and of each row by (event time, partition, offset): their order, and where each row begins."""
    begin = np.zeros(rows + 1, np.int64)
    for index in range(len(row)):
        begin[row[index] + 1] += 1
    for each in range(rows):
        begin[each + 1] += begin[each]
    place = begin[:-1].copy()
    order = np.empty(len(row), np.int64)
    for index in range(len(row)):
        order[place[row[index]]] = index
        place[row[index]] += 1
    for each in range(rows):
        # Nearly all events come in order; the few that do not are put in their place one by one, many by sorting.
        moved = 0
        for at in range(begin[each] + 1, begin[each + 1]):
            here = order[at]
            back = at
            while back > begin[each] and moved <= 64 * (begin[each + 1] - begin[each]):
                other = order[back - 1]
                if event_us[other] < event_us[here] or (
                    event_us[other] == event_us[here]
                    and (partition[other] < partition[here] or (partition[other] == partition[here] and offset[other] <= offset[here]))
                ):
                    break
                order[back] = other
                back -= 1
                moved += 1
            order[back] = here
            if moved > 64 * (begin[each + 1] - begin[each]):
                _sort(order, begin[each], begin[each + 1], event_us, partition, offset)
                break
    return order, begin


@loop
def _sort(order, start, end, event_us, partition, offset):  # type: ignore[no-untyped-def]
    """Stable sorts by the least key first, as `lexsort` does."""
    for key in range(3):
        part = order[start:end].copy()
        if key == 0:
            ranks = np.argsort(offset[part], kind="mergesort")
        elif key == 1:
            ranks = np.argsort(partition[part], kind="mergesort")
        else:
            ranks = np.argsort(event_us[part], kind="mergesort")
        order[start:end] = part[ranks]


@loop
def newest_events(words, row_at, order, begin, event_us, newest):  # type: ignore[no-untyped-def]
    """The newest event time of each row with its new events."""
    for row in range(len(newest)):
        newest[row] = get(words, row_at[row] + 1) if row_at[row + 1] > row_at[row] else _NO_EVENT
        if begin[row + 1] > begin[row]:
            newest[row] = max(newest[row], event_us[order[begin[row + 1] - 1]])


@loop
def record_words(operations, level_at, sums, level, rungs, rungs_at):  # type: ignore[no-untyped-def]
    """Words of one record of a level in a row of these rungs."""
    size = _TILE_WORDS
    for index in range(level_at[level], level_at[level + 1]):
        size += _width(operations, sums, index, rungs, rungs_at)
    return size


@loop
def _width(operations, sums, index, rungs, rungs_at):  # type: ignore[no-untyped-def]
    if operations[index, KIND] != SUM:
        return np.int64(operations[index, WORDS])
    return _sum_width(sums, operations[index, SLOT], rungs, rungs_at)


@loop
def _sum_width(sums, slot, rungs, rungs_at):  # type: ignore[no-untyped-def]
    rung = np.int64(rungs[rungs_at + sums[slot, RUNG_PLACE]]) if sums[slot, RUNG_PLACE] >= 0 else np.int64(0)
    return (END_DIGIT[rung] - FIRST_DIGIT[rung]) * sums[slot, POWER]


@loop
def is_whole(words, rungs, row_at, row, layout, operations, level_at, sums, header_words):  # type: ignore[no-untyped-def]
    """Whether a stored row is of this layout and as long as its header says."""
    start, size = row_at[row], row_at[row + 1] - row_at[row]
    levels = len(level_at) - 1
    if size < header_words or np.int64(words[start]) != layout:
        return False
    rungs_at = 4 * (start + _COUNTS_AT + levels)
    for slot in range(len(sums)):
        if sums[slot, RUNG_PLACE] >= 0:
            rung = rungs[rungs_at + sums[slot, RUNG_PLACE]]
            if rung < 1 or rung >= len(FIRST_DIGIT):
                return False
    need = np.int64(header_words)
    for level in range(levels):
        count = np.int64(words[start + _COUNTS_AT + level])
        need += count * record_words(operations, level_at, sums, level, rungs, rungs_at)
    return need == size


@loop
def room_for(words, rungs, row_at, begin, layout, operations, level_at, sums, header_words, whole):  # type: ignore[no-untyped-def]
    """Words that the folded rows can have at most; `whole` (rows) out: whether each can be folded here at all."""
    room = np.int64(0)
    narrow = np.ones(len(rungs) if len(sums) == 0 else 4 * header_words + len(sums) + 4, np.uint8)
    for row in range(len(row_at) - 1):
        whole[row] = True
        room += header_words + row_at[row + 1] - row_at[row]
        there = row_at[row + 1] > row_at[row]
        if there and not is_whole(words, rungs, row_at, row, layout, operations, level_at, sums, header_words):
            whole[row] = False
            continue
        for level in range(len(level_at) - 1):
            if there:
                rungs_at = 4 * (row_at[row] + _COUNTS_AT + len(level_at) - 1)
                size = record_words(operations, level_at, sums, level, rungs, rungs_at)
            else:
                size = record_words(operations, level_at, sums, level, narrow, 0)
            room += size * (begin[row + 1] - begin[row])
    return room


@loop
def fold_rows(  # type: ignore[no-untyped-def]
    words, row_at, order, begin, tiles, oldest, newest, partition, offset, event_us,
    values, valid, digits, first, sign, need,
    layout, operations, level_at, sums, header_words, out, out_bytes, out_at, done,
):  # fmt: skip
    """Every row with its events counted in.

    words, row_at       stored rows as words, and where each begins; (rows + 1)
    order, begin        of the events, as `by_row` gives them
    tiles               (levels, n) tile of each event
    oldest, newest      (levels, rows) oldest tile that is kept, and (rows) newest event time
    digits ... need     of the sums, as `lift` gives them
    out, out_bytes      the folded rows as words, and the same memory as bytes
    out_at              (rows + 1) out: where each begins
    done                (rows) in: whether to fold it; out: false where its sums do not stand on the rungs that the
                        row has, so that it must be folded the other way
    """
    levels = len(level_at) - 1
    at = np.int64(0)
    for row in range(len(row_at) - 1):
        out_at[row] = at
        if not done[row]:
            continue
        start = row_at[row]
        there = row_at[row + 1] > start
        for place in range(header_words):
            out[at + place] = words[start + place] if there else np.uint32(0)
        rungs_at = 4 * (at + _COUNTS_AT + levels)
        if not there:
            out[at] = np.uint32(layout)
            out_bytes[rungs_at] = 1
            for slot in range(len(sums)):
                if sums[slot, RUNG_PLACE] >= 0:
                    out_bytes[rungs_at + sums[slot, RUNG_PLACE]] = 1
        put(out, at + 1, newest[row])
        for event in range(begin[row], begin[row + 1]):
            for slot in range(len(sums)):
                place = sums[slot, RUNG_PLACE]
                if place >= 0 and need[order[event], slot] > out_bytes[rungs_at + place]:
                    done[row] = False
        if not done[row]:
            continue
        source, to = start + header_words, at + header_words
        for level in range(levels):
            size = record_words(operations, level_at, sums, level, out_bytes, rungs_at)
            stored = np.int64(words[start + _COUNTS_AT + level]) if there else np.int64(0)
            source_end = source + stored * size
            kept = 0
            event, event_end = begin[row], begin[row + 1]
            while event < event_end and tiles[level, order[event]] < oldest[level, row]:
                event += 1
            while source < source_end and get(words, source) < oldest[level, row]:
                source += size
            while source < source_end or event < event_end:
                coming = tiles[level, order[event]] if event < event_end else _FAR_END
                while source < source_end and get(words, source) < coming:
                    for place in range(size):
                        out[to + place] = words[source + place]
                    source += size
                    to += size
                    kept += 1
                if event == event_end:
                    # A tile at the far end of time would be no smaller than what says that no event is left.
                    while source < source_end:
                        for place in range(size):
                            out[to + place] = words[source + place]
                        source += size
                        to += size
                        kept += 1
                    break
                fresh = source == source_end or get(words, source) != coming
                if not fresh:
                    for place in range(size):
                        out[to + place] = words[source + place]
                    source += size
                else:
                    put(out, to, coming)
                    _empty(out, to + _TILE_WORDS, operations, level_at[level], level_at[level + 1], sums, out_bytes, rungs_at)
                began = event
                while event < event_end and tiles[level, order[event]] == coming:
                    event += 1
                _count_in(
                    out, to + _TILE_WORDS, operations, level_at[level], level_at[level + 1], sums, out_bytes, rungs_at,
                    order, began, event, partition, offset, event_us, values, valid, digits, first, sign, fresh,
                )  # fmt: skip
                to += size
                kept += 1
            out[at + _COUNTS_AT + level] = np.uint32(kept)
            source = source_end
        if _could_be_narrower(out, at, to, operations, level_at, sums, header_words, out_bytes, rungs_at):
            done[row] = False
            continue
        at = to
    out_at[len(row_at) - 1] = at


@loop
def _empty(out, at, operations, begin, end, sums, rungs, rungs_at):  # type: ignore[no-untyped-def]
    """The record of a tile without events."""
    for index in range(begin, end):
        width = _width(operations, sums, index, rungs, rungs_at)
        for place in range(width):
            out[at + place] = np.uint32(0)
        kind, floats = operations[index, KIND], operations[index, IS_FLOAT]
        if kind == LEAST:
            put(out, at, _INFINITY if floats else _FAR_END)
        elif kind == MOST:
            put(out, at, _MINUS_INFINITY if floats else _NO_EVENT)
        at += width


@loop
def _count_in(  # type: ignore[no-untyped-def]
    out, at, operations, begin, end, sums, rungs, rungs_at,
    order, event, event_end, partition, offset, event_us, values, valid, digits, first, sign, fresh,
):  # fmt: skip
    """Add the events of one tile to its record."""
    for index in range(begin, end):
        kind, column = operations[index, KIND], operations[index, COLUMN]
        width = _width(operations, sums, index, rungs, rungs_at)
        if kind == COUNT:
            count = np.int64(out[at])
            if column < 0:
                count += event_end - event
            else:
                for each in range(event, event_end):
                    count += valid[column, order[each]]
            out[at] = np.uint32(count & MASK)
        elif kind == SUM:
            slot = operations[index, SLOT]
            place = sums[slot, RUNG_PLACE]
            base = FIRST_DIGIT[rungs[rungs_at + place]] * sums[slot, POWER] if place >= 0 else np.int64(0)
            for each in range(event, event_end):
                number = order[each]
                if sign[number, slot]:
                    add(out, at, width, base, digits[number, slot], first[number, slot], sign[number, slot])
        elif kind in (LEAST, MOST):
            held = get(out, at)
            for each in range(event, event_end):
                if not valid[column, order[each]]:
                    continue
                new = values[column, order[each]]
                if operations[index, IS_FLOAT]:
                    if new == _NO_EVENT:
                        # The bits of -0.0: which of the two zeros came first may not show.
                        new = np.int64(0)
                    less, more = ordered(new) < ordered(held), ordered(new) > ordered(held)
                else:
                    less, more = new < held, new > held
                if less if kind == LEAST else more:
                    held = new
            put(out, at, held)
        else:
            _edge(
                out, at, kind, column, width, order, event, event_end, partition, offset, event_us, values, valid, fresh
            )  # fmt: skip
        at += width


@loop
def _edge(  # type: ignore[no-untyped-def]
    out, at, kind, column, width, order, event, event_end, partition, offset, event_us, values, valid, fresh
):  # fmt: skip
    """First or last by (event time, partition, offset); a null stands beyond the far end of time."""
    nothing = _FAR_END if kind == FIRST else _NO_EVENT
    held_us, held_offset, held_partition = get(out, at), get(out, at + 2), np.int64(np.int32(out[at + 4]))
    chosen = np.int64(-1)
    for each in range(event, event_end):
        number = order[each]
        us = event_us[number] if valid[column, number] else nothing
        if fresh:
            better = True
        elif us != held_us:
            better = us < held_us if kind == FIRST else us > held_us
        elif partition[number] != held_partition:
            better = partition[number] < held_partition if kind == FIRST else partition[number] > held_partition
        else:
            better = offset[number] < held_offset if kind == FIRST else offset[number] > held_offset
        if better:
            held_us, held_partition, held_offset, chosen, fresh = us, np.int64(partition[number]), offset[number], number, False
    if chosen >= 0:
        put(out, at, held_us)
        put(out, at + 2, held_offset)
        out[at + 4] = np.uint32(held_partition & MASK)
        if width == 7:
            put(out, at + 5, values[column, chosen])
        else:
            out[at + 5] = np.uint32(values[column, chosen])


@loop
def _could_be_narrower(out, at, to, operations, level_at, sums, header_words, rungs, rungs_at):  # type: ignore[no-untyped-def]
    """Whether some sum stands on a wider rung than any tile of the row needs."""
    levels = len(level_at) - 1
    for slot in range(len(sums)):
        place = sums[slot, RUNG_PLACE]
        if place < 0 or rungs[rungs_at + place] <= 1:
            continue
        rung = np.int64(rungs[rungs_at + place])
        needed = False
        record = at + header_words
        for level in range(levels):
            size = record_words(operations, level_at, sums, level, rungs, rungs_at)
            for _ in range(np.int64(out[at + _COUNTS_AT + level])):
                word = record + _TILE_WORDS
                for index in range(level_at[level], level_at[level + 1]):
                    if operations[index, KIND] == SUM and operations[index, SLOT] == slot and not needed:
                        needed = not fits_narrower(out, word, rung, sums[slot, POWER])
                    word += _width(operations, sums, index, rungs, rungs_at)
                record += size
        if not needed:
            return True
    return False
