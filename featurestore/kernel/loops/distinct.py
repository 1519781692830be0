"""How many different values there are in each of many ranges of events: one pass with a range that slides."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop


@loop
def slide(code, index, rank, order, low, high, occurs, counts, top, ranks, out_different, out_ranks):  # type: ignore[no-untyped-def]
    """Different values, and how many registers of a HyperLogLog have each rank, for each range [low, high).

    code           (n) dense number of each event's value, -1 for a null
    index, rank    (n) the register of its hash, and the rank that it brings there
    order          the ranges, such that each begins and ends near the one before
    occurs         (values) and counts (registers, ranks): zeros, how often each is inside
    top            (registers) zeros, the rank of each; ranks: how many registers have each rank
    """
    start, end, different = np.int64(0), np.int64(0), np.int64(0)
    for place in order:
        wanted_start, wanted_end = low[place], high[place]
        if wanted_start >= end or wanted_end <= start:
            for event in range(start, end):
                different -= _leave(event, code, index, rank, occurs, counts, top, ranks)
            start = end = wanted_start
        while end < wanted_end:
            different += _enter(end, code, index, rank, occurs, counts, top, ranks)
            end += 1
        while start > wanted_start:
            start -= 1
            different += _enter(start, code, index, rank, occurs, counts, top, ranks)
        while start < wanted_start:
            different -= _leave(start, code, index, rank, occurs, counts, top, ranks)
            start += 1
        while end > wanted_end:
            end -= 1
            different -= _leave(end, code, index, rank, occurs, counts, top, ranks)
        out_different[place] = different
        out_ranks[place] = ranks


@loop
def _enter(event, code, index, rank, occurs, counts, top, ranks):  # type: ignore[no-untyped-def]
    """1 where the value was not inside before."""
    value = code[event]
    if value < 0:
        return 0
    occurs[value] += 1
    if occurs[value] > 1:
        return 0
    register, new = index[event], rank[event]
    counts[register, new] += 1
    if new > top[register]:
        ranks[top[register]] -= 1
        ranks[new] += 1
        top[register] = new
    return 1


@loop
def _leave(event, code, index, rank, occurs, counts, top, ranks):  # type: ignore[no-untyped-def]
    """1 where the value is not inside any more."""
    value = code[event]
    if value < 0:
        return 0
    occurs[value] -= 1
    if occurs[value] > 0:
        return 0
    register, old = index[event], rank[event]
    counts[register, old] -= 1
    if old == top[register] and counts[register, old] == 0:
        left = np.int64(old)
        while left > 0 and counts[register, left] == 0:
            left -= 1
        ranks[old] -= 1
        ranks[left] += 1
        top[register] = left
    return 1
