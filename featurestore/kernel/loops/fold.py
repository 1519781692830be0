"""Fold: stored rows and sorted events in, rows out, record by record."""

from __future__ import annotations

import numpy as np

from featurestore.kernel import exact
from featurestore.kernel.loops.jit import loop
from featurestore.kernel.loops.words import END_DIGIT, FIRST_DIGIT, MASK, fits_narrower, get, ordered, put
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
# Digits of a fourth power on the widest rung.
_WIDTH_MAX = exact.width(len(exact.RUNGS) - 1, exact.POWER_MAX)


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
                    and (
                        partition[other] < partition[here]
                        or (partition[other] == partition[here] and offset[other] <= offset[here])
                    )
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
    """Heap sort, in place; events that the log gives the same place stay in the order in which they came."""
    size = end - start
    for number in range(size // 2 + size):
        # First each parent sinks below its greater children; then the greatest goes to the end, time after time.
        root, last = size // 2 - 1 - number, size
        if root < 0:
            root, last = 0, size // 2 + size - 1 - number
            order[start], order[start + last] = order[start + last], order[start]
        while 2 * root + 1 < last:
            child = 2 * root + 1
            if child + 1 < last and _comes_before(
                order[start + child], order[start + child + 1], event_us, partition, offset
            ):
                child += 1
            if not _comes_before(order[start + root], order[start + child], event_us, partition, offset):
                break
            order[start + root], order[start + child] = order[start + child], order[start + root]
            root = child


@loop
def _comes_before(left, right, event_us, partition, offset):  # type: ignore[no-untyped-def]
    if event_us[left] != event_us[right]:
        return event_us[left] < event_us[right]
    if partition[left] != partition[right]:
        return partition[left] < partition[right]
    if offset[left] != offset[right]:
        return offset[left] < offset[right]
    return left < right


@loop
def newest_events(words, row_at, begin, event_us, newest):  # type: ignore[no-untyped-def]
    """The newest event time of each row with its new events."""
    for row in range(len(newest)):
        newest[row] = get(words, row_at[row] + 1) if row_at[row + 1] > row_at[row] else _NO_EVENT
        if begin[row + 1] > begin[row]:
            newest[row] = max(newest[row], event_us[begin[row + 1] - 1])


@loop
def learn_widths(operations, level_at, sums, rungs, rungs_at, known, widths, sizes, bases):  # type: ignore[no-untyped-def]
    """Words of each operation and of each level's records in a row of these rungs, and the first digit of each sum.

    known  (sums) the rungs that the last call was for, 0 before the first: most rows have the same
    """
    same = known[len(sums)] == 1
    for slot in range(len(sums)):
        place = sums[slot, RUNG_PLACE]
        rung = np.int64(rungs[rungs_at + place]) if place >= 0 else np.int64(0)
        if known[slot] != rung:
            known[slot] = rung
            same = False
    if same:
        return
    known[len(sums)] = 1
    for level in range(len(level_at) - 1):
        sizes[level] = _TILE_WORDS
        for index in range(level_at[level], level_at[level + 1]):
            widths[index] = operations[index, WORDS]
            if operations[index, KIND] == SUM:
                slot = operations[index, SLOT]
                bases[slot] = FIRST_DIGIT[known[slot]] * sums[slot, POWER]
                widths[index] = END_DIGIT[known[slot]] * sums[slot, POWER] - bases[slot]
            sizes[level] += widths[index]


@loop
def is_whole(words, rungs, row_at, row, layout, level_at, sums, sizes, header_words):  # type: ignore[no-untyped-def]
    """Whether a stored row is as long as its header says."""
    need = np.int64(header_words)
    for level in range(len(level_at) - 1):
        need += sizes[level] * np.int64(words[row_at[row] + _COUNTS_AT + level])
    return need == row_at[row + 1] - row_at[row]


@loop
def has_header(words, rungs, row_at, row, layout, level_at, sums, header_words):  # type: ignore[no-untyped-def]
    """Whether a stored row begins with a header of this layout, with rungs that exist."""
    start = row_at[row]
    if row_at[row + 1] - start < header_words or np.int64(words[start]) != layout:
        return False
    rungs_at = 4 * (start + _COUNTS_AT + len(level_at) - 1)
    for slot in range(len(sums)):
        place = sums[slot, RUNG_PLACE]
        if place >= 0 and not 1 <= rungs[rungs_at + place] < len(FIRST_DIGIT):
            return False
    return True


@loop
def room_for(  # type: ignore[no-untyped-def]
    words, rungs, row_at, begin, layout, operations, level_at, sums, header_words, known, widths, sizes, bases, whole
):  # fmt: skip
    """Words that the folded rows can have at most; `whole` (rows) out: whether each can be folded here at all."""
    room = np.int64(0)
    new = np.ones(len(sums) + 4, np.uint8)
    for row in range(len(row_at) - 1):
        whole[row] = True
        room += header_words + row_at[row + 1] - row_at[row]
        if row_at[row + 1] > row_at[row]:
            if not has_header(words, rungs, row_at, row, layout, level_at, sums, header_words):
                whole[row] = False
                continue
            rungs_at = 4 * (row_at[row] + _COUNTS_AT + len(level_at) - 1)
            learn_widths(operations, level_at, sums, rungs, rungs_at, known, widths, sizes, bases)
            whole[row] = is_whole(words, rungs, row_at, row, layout, level_at, sums, sizes, header_words)
        else:
            learn_widths(operations, level_at, sums, new, 0, known, widths, sizes, bases)
        for level in range(len(level_at) - 1):
            room += sizes[level] * (begin[row + 1] - begin[row])
    return room


@loop
def fold_rows(  # type: ignore[no-untyped-def]
    words, row_at, begin, tiles, oldest, newest, partition, offset, event_us,
    values, valid, digits, size_of, first, sign, need,
    layout, operations, level_at, sums, header_words, known, widths, sizes, bases, out, out_bytes, out_at, done,
):  # fmt: skip
    """Every row with its events counted in.

    words, row_at       stored rows as words, and where each begins; (rows + 1)
    begin               (rows + 1) where the events of each row begin; they are in order
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
    scratch = np.empty(_WIDTH_MAX, np.int64)
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
                if place >= 0 and need[event, slot] > out_bytes[rungs_at + place]:
                    done[row] = False
        if not done[row]:
            continue
        learn_widths(operations, level_at, sums, out_bytes, rungs_at, known, widths, sizes, bases)
        source, to = start + header_words, at + header_words
        for level in range(levels):
            size = sizes[level]
            stored = np.int64(words[start + _COUNTS_AT + level]) if there else np.int64(0)
            source_end = source + stored * size
            kept = 0
            event, event_end = begin[row], begin[row + 1]
            while event < event_end and tiles[level, event] < oldest[level, row]:
                event += 1
            while source < source_end and get(words, source) < oldest[level, row]:
                source += size
            while source < source_end or event < event_end:
                copied = source
                if event < event_end:
                    coming = tiles[level, event]
                    if source < source_end and get(words, source_end - size) < coming:
                        # As nearly always: what comes is newer than all that is there.
                        source = source_end
                    while source < source_end and get(words, source) < coming:
                        source += size
                else:
                    source = source_end
                _copy(out, to, words, copied, source)
                to += source - copied
                kept += (source - copied) // size
                if event == event_end:
                    break
                fresh = source == source_end or get(words, source) != coming
                if not fresh:
                    _copy(out, to, words, source, source + size)
                    source += size
                else:
                    put(out, to, coming)
                    _empty(out, to + _TILE_WORDS, operations, level_at[level], level_at[level + 1], widths)
                began = event
                while event < event_end and tiles[level, event] == coming:
                    event += 1
                word = to + _TILE_WORDS
                for index in range(level_at[level], level_at[level + 1]):
                    kind, column, width = operations[index, KIND], operations[index, COLUMN], widths[index]
                    if kind == COUNT:
                        count = np.int64(out[word])
                        if column < 0:
                            count += event - began
                        else:
                            for each in range(began, event):
                                count += valid[column, each]
                        out[word] = np.uint32(count & MASK)
                    elif kind == SUM:
                        slot = operations[index, SLOT]
                        _add(out, word, width, bases[slot], began, event, slot, digits, size_of, first, sign, scratch)
                    elif kind in (LEAST, MOST):
                        floats = operations[index, IS_FLOAT] != 0
                        _reach(out, word, kind == LEAST, floats, column, began, event, values, valid)
                    else:
                        _edge(
                            out, word, kind, column, width, began, event,
                            partition, offset, event_us, values, valid, fresh,
                        )  # fmt: skip
                    word += width
                to += size
                kept += 1
            out[at + _COUNTS_AT + level] = np.uint32(kept)
            source = source_end
        if _could_be_narrower(out, at, operations, level_at, sums, header_words, known, widths, sizes):
            done[row] = False
            continue
        at = to
    out_at[len(row_at) - 1] = at


@loop
def _copy(out, to, words, begin, end):  # type: ignore[no-untyped-def]
    # Without a sign: a place that may be counted from the end is looked at twice.
    for place in range(np.uint64(end - begin)):
        out[np.uint64(to) + place] = words[np.uint64(begin) + place]


@loop
def _empty(out, at, operations, begin, end, widths):  # type: ignore[no-untyped-def]
    """The record of a tile without events."""
    for index in range(begin, end):
        for place in range(widths[index]):
            out[at + place] = np.uint32(0)
        kind, floats = operations[index, KIND], operations[index, IS_FLOAT]
        if kind == LEAST:
            put(out, at, _INFINITY if floats else _FAR_END)
        elif kind == MOST:
            put(out, at, _MINUS_INFINITY if floats else _NO_EVENT)
        at += widths[index]


@loop
def _add(out, at, width, base, event, event_end, slot, digits, size_of, first, sign, scratch):  # type: ignore[no-untyped-def]
    """Add the events' digits to a sum in two's complement; carries wait until the last one."""
    for place in range(width):
        scratch[place] = np.int64(out[at + place])
    for each in range(event, event_end):
        signed = np.int64(sign[each, slot])
        if signed == 0:
            continue
        # Digits that lie outside are zero: the row's rung was found to hold them.
        shift = first[each, slot] - base
        for k in range(max(-shift, 0), min(np.int64(size_of[each, slot]), width - shift)):
            scratch[k + shift] += signed * np.int64(digits[each, slot, k])
    carry = np.int64(0)
    for place in range(width):
        total = scratch[place] + carry
        out[at + place] = np.uint32(total & MASK)
        carry = total >> 32


@loop
def _reach(out, at, least, floats, column, event, event_end, values, valid):  # type: ignore[no-untyped-def]
    """The smallest or largest value so far."""
    held = get(out, at)
    if floats:
        held = ordered(held)
    for each in range(event, event_end):
        if valid[column, each]:
            new = values[column, each]
            if floats:
                # The bits of -0.0 are those of the smallest int64: which zero came first may not show.
                new = np.int64(0) if new == _NO_EVENT else ordered(new)
            held = min(held, new) if least else max(held, new)
    put(out, at, ordered(held) if floats else held)


@loop
def _edge(  # type: ignore[no-untyped-def]
    out, at, kind, column, width, event, event_end, partition, offset, event_us, values, valid, fresh
):  # fmt: skip
    """First or last by (event time, partition, offset); a null stands beyond the far end of time."""
    nothing = _FAR_END if kind == FIRST else _NO_EVENT
    held_us, held_offset, held_partition = get(out, at), get(out, at + 2), np.int64(np.int32(out[at + 4]))
    chosen = np.int64(-1)
    for each in range(event, event_end):
        us = event_us[each] if valid[column, each] else nothing
        if fresh:
            better = True
        elif us != held_us:
            better = us < held_us if kind == FIRST else us > held_us
        elif partition[each] != held_partition:
            better = partition[each] < held_partition if kind == FIRST else partition[each] > held_partition
        else:
            better = offset[each] < held_offset if kind == FIRST else offset[each] > held_offset
        if better:
            held_us, held_partition, held_offset = us, np.int64(partition[each]), offset[each]
            chosen, fresh = np.int64(each), False
    if chosen >= 0:
        put(out, at, held_us)
        put(out, at + 2, held_offset)
        out[at + 4] = np.uint32(held_partition & MASK)
        if width == 7:
            put(out, at + 5, values[column, chosen])
        else:
            out[at + 5] = np.uint32(values[column, chosen])


@loop
def _could_be_narrower(out, at, operations, level_at, sums, header_words, known, widths, sizes):  # type: ignore[no-untyped-def]
    """Whether some sum stands on a wider rung than any tile of the row needs."""
    for slot in range(len(sums)):
        if sums[slot, RUNG_PLACE] < 0 or known[slot] <= 1:
            continue
        needed = False
        record = at + header_words
        for level in range(len(level_at) - 1):
            for _ in range(np.int64(out[at + _COUNTS_AT + level])):
                word = record + _TILE_WORDS
                for index in range(level_at[level], level_at[level + 1]):
                    if operations[index, KIND] == SUM and operations[index, SLOT] == slot and not needed:
                        needed = not fits_narrower(out, word, known[slot], sums[slot, POWER])
                    word += widths[index]
                record += sizes[level]
        if not needed:
            return True
    return False
