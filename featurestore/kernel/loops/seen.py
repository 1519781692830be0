"""A table of ids by open addressing: which ones were seen, and when; judged event by event, in order.

A slot is an id of 128 bits in two words, and the moment at which it was taken last; -1 where the slot is free. Nothing
is ever taken out between two rebuilds but by undoing, newest first, so a search ends at the first free slot.
"""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop


@loop
def place_of(high, low, slot_high, slot_low, slot_us):  # type: ignore[no-untyped-def]
    """The slot of an id, or the free one where it belongs."""
    mask = np.int64(len(slot_us) - 1)
    # Numbers are ids as well, and neighbours: spread them. For hashes it changes nothing.
    mixed = (high ^ (high >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    at = np.int64(mixed >> np.uint64(20)) & mask
    while slot_us[at] >= 0 and (slot_high[at] != high or slot_low[at] != low):
        at = (at + 1) & mask
    return at


@loop
def judge_ids(high, low, moment_us, within_us, slot_high, slot_low, slot_us, undo_at, undo_us, repeat):  # type: ignore[no-untyped-def]
    """Judge n ids in order; returns how many entries of `undo` were made.

    high, low  (n) ids; moment_us (n) when each is seen, never falling
    undo_at    (n) out: slots that changed, and undo_us (n) what they were before
    repeat     (n) out: the id was taken at most `within_us` before
    """
    changed = 0
    for index in range(len(high)):
        at = place_of(high[index], low[index], slot_high, slot_low, slot_us)
        before = slot_us[at]
        repeat[index] = before >= 0 and moment_us[index] - before <= within_us
        if not repeat[index]:
            undo_at[changed], undo_us[changed] = at, before
            changed += 1
            slot_high[at], slot_low[at], slot_us[at] = high[index], low[index], moment_us[index]
    return changed


@loop
def undo(undo_at, undo_us, changed, slot_us):  # type: ignore[no-untyped-def]
    """Take the newest changes back."""
    for index in range(changed - 1, -1, -1):
        slot_us[undo_at[index]] = undo_us[index]


@loop
def move(oldest_us, slot_high, slot_low, slot_us, to_high, to_low, to_us):  # type: ignore[no-untyped-def]
    """Put what was seen at `oldest_us` or later into another table, which has room."""
    for index in range(len(slot_us)):
        if slot_us[index] >= oldest_us:
            at = place_of(slot_high[index], slot_low[index], to_high, to_low, to_us)
            to_high[at], to_low[at], to_us[at] = slot_high[index], slot_low[index], slot_us[index]
