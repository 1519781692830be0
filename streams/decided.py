"""What the log has decided already. It holds every event that was not a dead letter: so where it has been, a place that
it lacks was a dead letter and stays one, also when the definition was mended since. Its event comes back as a record
of its own, by `featurestore dead-letters replay`, and must not count at both places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernel import PLACES_MAX, in_records
from streams.codecs import Decoded
from streams.letters import NO_POSITION
from streams.sink import Log

Ints = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]
_NONE = np.zeros(0, dtype=np.int64)
# Events of the log that are looked at together.
_EVENTS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Decided:
    """The dead letters of a partition, as (m) runs of places: half-open, rising.

    A place is an offset, or where records hold many events, an offset with the position in its record.
    """

    gap_first: Ints
    gap_end: Ints

    @property
    def end(self) -> int:
        """The place behind all of them; 0 where there is none."""
        return int(self.gap_end.max(initial=0))

    def is_dead(self, places: Ints, ends: Ints | None = None) -> Truths:
        """Which of these places were dead letters.

        ends  where given, of all places from one up to its end
        """
        gap = np.searchsorted(self.gap_first, places, side="right") - 1
        inside = gap >= 0
        if len(self.gap_end):
            inside &= (places + 1 if ends is None else ends) <= self.gap_end[gap]
        return inside

    def left(self, decoded: Decoded, offsets: Ints) -> Decoded:
        """A batch's records without the events that were dead letters; what its codec rejected stays.

        offsets  of all records of the batch
        """
        if not len(self.gap_first):
            return decoded
        kept = np.flatnonzero(~self.is_dead(_places(decoded, offsets)))
        if len(kept) == len(decoded.index):
            return decoded
        chosen = pa.array(kept)
        arrays = {name: array.take(chosen) for name, array in decoded.arrays.items()}
        position = None if decoded.position is None else decoded.position[kept]
        return Decoded(decoded.index[kept], arrays, decoded.rejected, position)


def _places(decoded: Decoded, offsets: Ints) -> Ints:
    """Of the events of a batch, by the offsets of its records."""
    places = offsets[decoded.index]
    return places if decoded.position is None else in_records(places, decoded.position)


def dead_at(offsets: Ints, positions: Ints, *, is_batched: bool) -> Decided:
    """As if a log had decided nothing but that these were dead letters.

    positions  of each in its record; NO_POSITION where the whole record was one
    """
    all_of = PLACES_MAX if is_batched else 1
    begins = offsets * all_of + np.maximum(positions, 0)
    ends = np.where(positions == NO_POSITION, offsets * all_of + all_of, begins + 1)
    order = np.lexsort((ends, begins))
    # A row of a record that is dead as a whole lies in the gap of before: that one goes on.
    return Decided(begins[order], np.maximum.accumulate(ends[order]))


NOTHING = dead_at(_NONE, _NONE, is_batched=False)


def decided(log: Log, partition: int, first: int, end: int, *, is_batched: bool = False) -> Decided:
    """Read what the log says of the offsets [first, end) of a partition, where it has been.

    is_batched  whether records hold many events
    """
    starts, ends = [_NONE], [_NONE]
    low = first
    while low < end:
        high = min(low + _EVENTS_MAX, end)
        if is_batched:
            high = log.end_within(partition, low, high, _EVENTS_MAX)
        table = log.between(partition, low, high, ["offset", *(["position"] if is_batched else [])])
        places, bounds = table["offset"].to_numpy(), (low, high)
        if is_batched:
            places = np.sort(in_records(places, table["position"].to_numpy()))
            bounds = low * PLACES_MAX, high * PLACES_MAX
        edges = np.concatenate(([bounds[0] - 1], places, [bounds[1]]))
        gaps = np.flatnonzero(np.diff(edges) > 1)
        starts.append(edges[gaps] + 1)
        ends.append(edges[gaps + 1])
        low = high
    return Decided(np.concatenate(starts), np.concatenate(ends))
