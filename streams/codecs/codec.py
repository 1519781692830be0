"""What every codec answers: columns of the events that keep the contract, and each other one with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.codecs.rejections import Rejected, Rejections

Ints = npt.NDArray[np.int64]

# A bad event of a record of many becomes a letter of its own, at some 100 us each. More of them in one record say that
# its producer is wrong, not some of its events; a few kilobytes may hold a million, that nobody would read as letters.
BAD_EVENTS_MAX = 10_000
TOO_MANY_BAD = "too_many_bad"


@dataclass(frozen=True, slots=True)
class Decoded:
    """The good events of a batch as Arrow arrays, their records' places in the batch, and what was rejected.

    arrays    of the topic's columns, of the Arrow types that its definition says
    index     (n) place of each event's record in the batch, rising; an event of its own has a record of its own ...
    position  (n) ... but where records hold many events, this is the event's place in its record
    """

    index: Ints
    arrays: Mapping[str, pa.Array]
    rejected: Rejections
    position: Ints | None = None

    def between(self, first: int, end: int) -> Decoded:
        """What came of the records [first, end) of the batch, as if they were all of it."""
        low, high = np.searchsorted(self.index, [first, end]).tolist()
        return Decoded(
            self.index[low:high] - first,
            {name: array.slice(low, high - low) for name, array in self.arrays.items()},
            self.rejected.between(first, end),
            None if self.position is None else self.position[low:high],
        )


class Codec(Protocol):
    """Bytes of records <-> columns of a topic's schema."""

    def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
        """Columns of the events that keep the contract; of the rest the reasons. Bytes never make it raise.

        Raises SchemaRegistryError when the schema of a record cannot be asked for now.
        """
        ...

    def decode_first(self, payloads: Sequence[bytes | None]) -> tuple[Decoded, int]:
        """The same of as many records as memory should hold together, and how many these are: one at least.

        Who goes on with the rest reads any batch, whatever its records become when they are read.
        """
        ...

    def encode(self, events: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The records of some events, in their order: one an event, or one for all where the format holds many.

        Raises InvalidEventError where `decode` would reject, SchemaRegistryError.
        """
        ...


def too_many_bad(bad: int, events: int, position: int, reason: str, detail: str) -> str:
    """What is said of a record of many events that dies whole, by its first bad event."""
    return (
        f"{bad} of its {events} events are bad, {BAD_EVENTS_MAX} are the most that become letters of their own; "
        f"the first is the one at {position}, {reason}: {detail}"
    )


def without_records(decoded: Decoded, reasons: Mapping[int, tuple[str, str]]) -> Decoded:
    """The same without some records, which are rejected whole: place in the batch -> reason and detail."""
    places = list(reasons)
    kept = np.flatnonzero(~np.isin(decoded.index, places))
    others = decoded.rejected.where(~np.isin(decoded.rejected.records, places))
    chosen = pa.array(kept)
    return Decoded(
        decoded.index[kept],
        {name: array.take(chosen) for name, array in decoded.arrays.items()},
        Rejections.of([*others, *(Rejected(place, *why) for place, why in reasons.items())]),
        None if decoded.position is None else decoded.position[kept],
    )


def without(decoded: Decoded, reasons: Mapping[int, tuple[str, str]]) -> Decoded:
    """The same without some events, which are rejected: place among the events -> reason and detail."""
    if not reasons:
        return decoded
    kept = np.ones(len(decoded.index), dtype=np.bool_)
    places = np.fromiter(reasons, dtype=np.int64, count=len(reasons))
    kept[places] = False
    index = decoded.index[places].tolist()
    position = [None] * len(places) if decoded.position is None else decoded.position[places].tolist()
    more = [
        Rejected(record, reason, detail, within)
        for record, (reason, detail), within in zip(index, reasons.values(), position, strict=True)
    ]
    chosen = pa.array(kept)
    return Decoded(
        decoded.index[kept],
        {name: array.filter(chosen) for name, array in decoded.arrays.items()},
        Rejections.of([*decoded.rejected, *more]),
        None if decoded.position is None else decoded.position[kept],
    )
