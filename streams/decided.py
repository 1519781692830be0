"""What the log has decided already: a partition that is read again before the log's end is not judged anew.

The log holds every event that was not a dead letter. So where it has been, an offset that it lacks was a dead letter
and stays one, also when the definition was mended since: its event comes back as a record of its own, by
`featurestore dead-letters replay`, and must not count at both places. Which events were repeats is read there, too.

And when an event arrived that came from the future. Where producers stamp records it may have been the reader's clock
that said so, which says another thing at another reading: rows made again would not be those of the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.event_time import REPEATED_US
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
    """The log's decisions on the offsets [first, end) of a partition.

    gap_first, gap_end  (m) runs of places that the log lacks, half-open, rising; a place is an offset, or where records
                        hold many events, an offset with the position in its record
    repeated            places of repeats, rising
    clamped             of the offsets [low, high): places of events that were ahead of their arrival, rising, and that
                        arrival; None where there is none. Where a producer's clock is ahead these are all events, so
                        they are read with each batch again, and not kept
    """

    first: int
    end: int
    gap_first: Ints
    gap_end: Ints
    repeated: Ints
    clamped: Callable[[int, int], tuple[Ints, Ints]] | None

    def beyond(self, offset: int) -> Decided:
        """What is needed from an offset on: nothing once it has reached the end."""
        if offset < self.end or self.first == self.end:
            return self
        return Decided(self.end, self.end, _NONE, _NONE, _NONE, None)

    def is_dead(self, places: Ints, ends: Ints | None = None) -> Truths:
        """Which of these places were dead letters.

        ends  where given, of all places from one up to its end
        """
        gap = np.searchsorted(self.gap_first, places, side="right") - 1
        inside = gap >= 0
        if len(self.gap_end):
            inside &= (places + 1 if ends is None else ends) <= self.gap_end[gap]
        return inside

    def is_repeat(self, offsets: Ints) -> Truths:
        """Which of these offsets were repeats."""
        return np.isin(offsets, self.repeated)

    def undecided(self, decoded: Decoded, offsets: Ints) -> Decoded:
        """A batch's records without those that were dead letters; these have their letters since then.

        offsets  of all records of the batch
        """
        if not len(offsets) or offsets[0] >= self.end:
            return decoded
        rejected = decoded.rejected.where(offsets[decoded.rejected.records] >= self.end)
        # Beyond the log's end nothing is in a gap.
        return replace(self.left(decoded, offsets), rejected=rejected)

    def left(self, decoded: Decoded, offsets: Ints) -> Decoded:
        """A batch's records without the events that were dead letters; what its codec rejected stays.

        offsets  of all records of the batch
        """
        kept = np.flatnonzero(~self.is_dead(_places(decoded, offsets)))
        if len(kept) == len(decoded.index):
            return decoded
        chosen = pa.array(kept)
        arrays = {name: array.take(chosen) for name, array in decoded.arrays.items()}
        position = None if decoded.position is None else decoded.position[kept]
        return Decoded(decoded.index[kept], arrays, decoded.rejected, position)

    def arrival_us(self, decoded: Decoded, offsets: Ints, stamps_us: Ints, event_us: Ints) -> Ints:
        """(n) when the events of a batch arrived; of those that the log has, so that they are as far ahead as there.

        offsets, stamps_us  of all records of the batch
        event_us            (n) as the producers gave them
        """
        arrival_us = stamps_us[decoded.index]
        if not len(offsets) or offsets[0] >= self.end:
            return arrival_us
        # Of an event that was not ahead of its arrival it matters no more when that was.
        logged = np.maximum(arrival_us, event_us)
        if self.clamped is not None and len(decoded.index):
            clamped, clamped_to_us = self.clamped(int(offsets[0]), min(int(offsets[-1]) + 1, self.end))
            places = _places(decoded, offsets)
            at = np.searchsorted(clamped, places)
            is_there = at < len(clamped)
            is_there[is_there] = clamped[at[is_there]] == places[is_there]
            logged[is_there] = clamped_to_us[at[is_there]]
        known: Ints = np.where(offsets[decoded.index] < self.end, logged, arrival_us)
        return known


def _places(decoded: Decoded, offsets: Ints) -> Ints:
    """Of the events of a batch, by the offsets of its records."""
    places = offsets[decoded.index]
    return places if decoded.position is None else in_records(places, decoded.position)


def dead_at(offsets: Ints, positions: Ints, *, is_batched: bool) -> Decided:
    """As if a log that ends behind the last of these had decided nothing but that they were dead letters.

    positions  of each in its record; NO_POSITION where the whole record was one
    """
    all_of = PLACES_MAX if is_batched else 1
    begins = offsets * all_of + np.maximum(positions, 0)
    ends = np.where(positions == NO_POSITION, offsets * all_of + all_of, begins + 1)
    order = np.lexsort((ends, begins))
    end = int(offsets.max()) + 1 if len(offsets) else 0
    # A row of a record that is dead as a whole lies in the gap of before: that one goes on.
    return Decided(0, end, begins[order], np.maximum.accumulate(ends[order]), _NONE, None)


NOTHING = dead_at(_NONE, _NONE, is_batched=False)


def decided(log: Log, partition: int, first: int, end: int, *, is_batched: bool = False) -> Decided:
    """Read what the log says of a partition from `first` on; it ends at `end`.

    is_batched  whether records hold many events
    """
    columns = ["offset", "event_us", "arrival_us", "late_by_us", *(["position"] if is_batched else [])]
    starts, ends, repeated = ([_NONE] for _ in range(3))
    low, has_clamped = first, False
    while low < end:
        high = min(low + _EVENTS_MAX, end)
        if is_batched:
            high = log.end_within(partition, low, high, _EVENTS_MAX)
        table = log.between(partition, low, high, columns)
        places, bounds = table["offset"].to_numpy(), (low, high)
        is_repeat = table["late_by_us"].to_numpy() == REPEATED_US
        has_clamped |= bool((table["event_us"].to_numpy() > table["arrival_us"].to_numpy()).any())
        if is_batched:
            places = in_records(places, table["position"].to_numpy())
            order = np.argsort(places)
            places, is_repeat = places[order], is_repeat[order]
            bounds = low * PLACES_MAX, high * PLACES_MAX
        edges = np.concatenate(([bounds[0] - 1], places, [bounds[1]]))
        gaps = np.flatnonzero(np.diff(edges) > 1)
        starts.append(edges[gaps] + 1)
        ends.append(edges[gaps + 1])
        repeated.append(places[is_repeat])
        low = high
    clamped = partial(_clamped, log, partition, is_batched) if has_clamped else None
    return Decided(first, end, np.concatenate(starts), np.concatenate(ends), np.concatenate(repeated), clamped)


def _clamped(log: Log, partition: int, is_batched: bool, low: int, high: int) -> tuple[Ints, Ints]:
    columns = ["offset", "event_us", "arrival_us", *(["position"] if is_batched else [])]
    table = log.between(partition, low, high, columns)
    places, arrival_us = table["offset"].to_numpy(), table["arrival_us"].to_numpy()
    if is_batched:
        places = in_records(places, table["position"].to_numpy())
    chosen = np.flatnonzero(table["event_us"].to_numpy() > arrival_us)
    chosen = chosen[np.argsort(places[chosen])]
    return places[chosen], arrival_us[chosen]
