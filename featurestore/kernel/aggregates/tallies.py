"""How often each value came, exactly: sets of values, the most frequent ones, counts by category.

No more than a stated number of different values is kept. With one more the tally is full, and says so instead of
being wrong: its features are null. Whether it is full depends on the values alone, so no order can show.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from featurestore.kernel.aggregates.compiled import Ask, Compiled, Finished, Span, given
from featurestore.kernel.aggregates.heaped import Heaped
from featurestore.kernel.aggregates.packed import listed, packed, unpacker
from featurestore.kernel.aggregates.partial import Ints, State
from featurestore.kernel.events import DataType, Events

VALUES_MAX = 1_024
_HEAD = struct.Struct("<II")  # how often, length of the value
COUNTED_BYTES = _HEAD.size
# No value came 0 times, so this is no tally.
_FULL = _HEAD.pack(0, 0)


@dataclass(frozen=True, slots=True)
class TallyPartial(Heaped):
    """The count of every value, of up to `most` different ones."""

    column: str
    dtype: DataType
    most: int

    @property
    def name(self) -> str:
        return f"tally({self.column} to {self.most})"

    def lift(self, events: Events) -> State:
        values = packed(events.columns[self.column], self.dtype, one_zero=True)
        return {"value": listed([b"" if value is None else _HEAD.pack(1, len(value)) + value for value in values])}

    def merge(self, state: State, starts: Ints) -> State:
        tallies = state["value"]
        if len(starts) == len(tallies):
            return state
        out = []
        for start, end in pairwise([*starts.tolist(), len(tallies)]):
            if end - start == 1:
                out.append(tallies[start])
                continue
            held: Counter[bytes] = Counter()
            for tally in tallies[start:end]:
                for value, times in _counts_of(tally):
                    held[value] += times
            full = any(tally == _FULL for tally in tallies[start:end])
            out.append(_FULL if full else self._packed(held))
        return {"value": listed(out)}

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """One pass with a window that slides over the events; ranges of one window rise on both ends."""
        singles = [single[_HEAD.size :] if single else None for single in state["value"]]
        out: list[bytes] = [b""] * len(low)
        held: Counter[bytes] = Counter()
        start = end = 0
        for place in np.lexsort((low, high)).tolist():
            wanted_low, wanted_high = int(low[place]), int(high[place])
            if wanted_low < start or wanted_low >= end:
                held.clear()
                start = end = wanted_low
            held.update(value for value in singles[end:wanted_high] if value is not None)
            for value in singles[start:wanted_low]:
                if value is not None:
                    held[value] -= 1
                    if not held[value]:
                        del held[value]
            start, end = wanted_low, wanted_high
            out[place] = self._packed(held)
        return {"value": listed(out)}

    def _packed(self, held: Mapping[bytes, int]) -> bytes:
        if len(held) > self.most:
            return _FULL
        return b"".join(_HEAD.pack(held[value], len(value)) + value for value in sorted(held))


def values(ask: Ask) -> Compiled:
    """The different values, in rising order."""
    column = given(ask.column)
    return _finished(ask, f"list<{column.dtype}>", lambda counts: sorted(value for value, _ in counts))


def top_k(ask: Ask) -> Compiled:
    """The k most frequent values, most frequent first; of equally frequent ones the smaller first."""
    column, k = given(ask.column), int(given(ask.argument))

    def top(counts: list[tuple[Any, int]]) -> list[Any]:
        return [value for value, _ in sorted(counts, key=lambda one: (-one[1], one[0]))[:k]]

    return _finished(ask, f"list<{column.dtype}>", top)


def counts(ask: Ask) -> Compiled:
    """How often each category came."""
    column = given(ask.column)
    return _finished(ask, f"map<{column.dtype}, int64>", sorted)


def _finished(ask: Ask, kind: str, of: Any) -> Compiled:
    column = given(ask.column)
    partial, unpack = TallyPartial(column.name, column.dtype, VALUES_MAX), unpacker(column.dtype)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        tallies = states[partial.name]["value"].tolist()
        known = [tally not in (b"", _FULL) for tally in tallies]
        found = [
            of([(unpack(value), times) for value, times in _counts_of(tally)]) if some else None
            for tally, some in zip(tallies, known, strict=True)
        ]
        return Finished(listed(found), np.array(known, dtype=np.bool_))

    return Compiled((partial,), kind, finish)


def _counts_of(tally: bytes) -> Iterator[tuple[bytes, int]]:
    if tally == _FULL:
        return
    at = 0
    while at < len(tally):
        times, size = _HEAD.unpack_from(tally, at)
        at += _HEAD.size + size
        yield tally[at - size : at], times
