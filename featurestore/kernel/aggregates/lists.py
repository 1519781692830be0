"""The first or last n values of a column, by (event time, partition, offset), with or without repeats."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

import numpy as np

from featurestore.kernel.aggregates.compiled import Ask, Builder, Compiled, Finished, Span, given
from featurestore.kernel.aggregates.heaped import Heaped
from featurestore.kernel.aggregates.packed import listed, packed, unpacker
from featurestore.kernel.aggregates.partial import Ints, State
from featurestore.kernel.events import DataType, Events

VALUES_MAX = 1_000
_HEAD = struct.Struct("<qiqI")  # event time, partition, offset, length of the value
ENTRY_BYTES = _HEAD.size

Entry = tuple[int, int, int, bytes]


@dataclass(frozen=True, slots=True)
class ListPartial(Heaped):
    """Up to `length` values, each with the event that brought it; of equal ones, if `distinct`, the nearest to the end.

    What falls off a part has `length` values before it there, so it would fall off the whole as well.
    """

    column: str
    dtype: DataType
    which: Literal["first", "last"]
    length: int
    distinct: bool

    @property
    def name(self) -> str:
        return f"{self.which}_{self.length}({'distinct ' if self.distinct else ''}{self.column})"

    def lift(self, events: Events) -> State:
        values = packed(events.columns[self.column], self.dtype, one_zero=self.distinct)
        places = zip(events.event_us.tolist(), events.partition.tolist(), events.offset.tolist(), values, strict=True)
        return {
            "value": listed(
                [
                    b"" if value is None else _HEAD.pack(event_us, partition, offset, len(value)) + value
                    for event_us, partition, offset, value in places
                ]
            )
        }

    def merge(self, state: State, starts: Ints) -> State:
        lists = state["value"]
        if len(starts) == len(lists):
            return state
        out = []
        for start, end in pairwise([*starts.tolist(), len(lists)]):
            if end - start == 1:
                out.append(lists[start])
                continue
            entries = [entry for packed_list in lists[start:end] for entry in entries_of(packed_list)]
            out.append(self._packed(sorted(entries, reverse=self.which == "last")))
        return {"value": listed(out)}

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """Events are in order: walk from the end, over those that have a value."""
        singles = state["value"].tolist()
        there = np.array([place for place, single in enumerate(singles) if single], dtype=np.int64)
        lows, highs = np.searchsorted(there, low).tolist(), np.searchsorted(there, high).tolist()
        places = there.tolist()
        out = []
        for start, end in zip(lows, highs, strict=True):
            walk: Iterable[int] = range(end - 1, start - 1, -1) if self.which == "last" else range(start, end)
            if self.distinct:
                out.append(self._packed(entry for at in walk for entry in entries_of(singles[places[at]])))
            else:
                out.append(b"".join(singles[places[at]] for at in islice(walk, self.length)))
        return {"value": listed(out)}

    def _packed(self, entries: Iterable[Entry]) -> bytes:
        """The first `length` entries of those given, nearest to the end first."""
        kept: list[bytes] = []
        seen: set[bytes] = set()
        for event_us, partition, offset, value in entries:
            if self.distinct and value in seen:
                continue
            seen.add(value)
            kept.append(_HEAD.pack(event_us, partition, offset, len(value)) + value)
            if len(kept) == self.length:
                break
        return b"".join(kept)


def entries_of(packed_list: bytes) -> Iterator[Entry]:
    """The entries of one partial, nearest to the end first."""
    at = 0
    while at < len(packed_list):
        event_us, partition, offset, size = _HEAD.unpack_from(packed_list, at)
        at += _HEAD.size + size
        yield event_us, partition, offset, packed_list[at - size : at]


def ends(which: Literal["first", "last"], *, distinct: bool) -> Builder:
    """A list of the first values, oldest first, or of the last ones, newest first."""

    def build(ask: Ask) -> Compiled:
        column = given(ask.column)
        partial = ListPartial(column.name, column.dtype, which, int(given(ask.argument)), distinct)
        unpack = unpacker(column.dtype)

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            values = [[unpack(entry[3]) for entry in entries_of(each)] for each in states[partial.name]["value"]]
            return Finished(listed(values), np.array([bool(each) for each in values], dtype=np.bool_))

        return Compiled((partial,), f"list<{column.dtype}>", finish)

    return build
