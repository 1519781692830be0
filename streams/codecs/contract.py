"""Ranges, lengths and choices of a topic's columns, over the columns of many events at once.

The producer SDK and the engine both call `kept`, so what may be sent is what is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidEventError
from featurestore.spec import Topic
from featurestore.spec.contract import Bound
from streams.codecs.codec import (
    BAD_EVENTS_MAX,
    TOO_MANY_BAD,
    Codec,
    Decoded,
    too_many_bad,
    without,
    without_records,
)

OUT_OF_RANGE = "out_of_range"
_SHOWN_MAX = 60

_Mask = npt.NDArray[np.bool_]


def kept(decoded: Decoded, topic: Topic) -> Decoded:
    """The events whose values are in bounds; the others are rejected, each for its first column that is not.

    A record of many events whose bad ones are too many, those that its codec found among them, is rejected whole.
    """
    faults = list(_faults(decoded, topic))
    whole = _whole(decoded, faults)
    if whole:
        # Before a word is said of each: they may be a million.
        decoded = without_records(decoded, whole)
        faults = list(_faults(decoded, topic))
    reasons: dict[int, tuple[str, str]] = {}
    for column, bad, bound in faults:
        places = np.flatnonzero(bad)
        values = decoded.arrays[column].take(pa.array(places)).to_pylist()
        for place, value in zip(places.tolist(), values, strict=True):
            reasons.setdefault(place, _why(column, value, bound))
    return without(decoded, reasons)


class ContractCodec:
    """A codec that holds what it decodes and encodes to the bounds of its topic as well."""

    def __init__(self, codec: Codec, topic: Topic) -> None:
        self._codec, self._topic = codec, topic

    def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
        return kept(self._codec.decode(payloads), self._topic)

    def decode_first(self, payloads: Sequence[bytes | None]) -> tuple[Decoded, int]:
        decoded, count = self._codec.decode_first(payloads)
        return kept(decoded, self._topic), count

    def encode(self, events: Sequence[Mapping[str, Any]]) -> list[bytes]:
        records = self._codec.encode(events)
        rejected = self.decode(records).rejected
        if rejected:
            raise InvalidEventError(self._topic.name, f"{rejected[0].reason}: {rejected[0].detail}")
        return records


def _whole(decoded: Decoded, faults: Sequence[tuple[str, _Mask, str]]) -> dict[int, tuple[str, str]]:
    """Records that have too many bad events: place in the batch -> reason and detail."""
    if decoded.position is None or not faults:
        return {}
    bad = np.logical_or.reduce([mask for _, mask, _ in faults])
    if np.count_nonzero(bad) + len(decoded.rejected) <= BAD_EVENTS_MAX:
        return {}
    records, before = decoded.index[bad], decoded.rejected.records
    counts = np.bincount(np.concatenate([records, before]))
    out = {}
    # Where the codec rejected a record whole nothing of it is in the columns.
    for record in np.intersect1d(np.flatnonzero(counts > BAD_EVENTS_MAX), records).tolist():
        first = int(np.flatnonzero(bad & (decoded.index == record))[0])
        column, bound = next((column, bound) for column, mask, bound in faults if mask[first])
        why = int(decoded.position[first]), *_why(column, decoded.arrays[column][first].as_py(), bound)
        low, high = np.searchsorted(before, [record, record + 1]).tolist()
        if low < high and (earlier := decoded.rejected[low]).position < why[0]:
            why = earlier.position, earlier.reason, earlier.detail
        events = int(np.count_nonzero(decoded.index == record)) + high - low
        out[record] = TOO_MANY_BAD, too_many_bad(int(counts[record]), events, *why)
    return out


def _why(column: str, value: object, bound: str) -> tuple[str, str]:
    return OUT_OF_RANGE, f"`{column}` is {_shown(value)}, {bound}"


def _faults(decoded: Decoded, topic: Topic) -> Iterator[tuple[str, _Mask, str]]:
    """Column, which events break its bound, and the bound in words; columns in the order of the schema."""
    for column in topic.schema:
        array = decoded.arrays[column]
        if column in topic.ranges:
            least, most = topic.ranges[column]
            yield from _outside(column, array, least, most, "")
        if column in topic.lengths:
            least, most = topic.lengths[column]
            yield from _outside(column, pc.utf8_length(array).cast(pa.int64()), least, most, " characters")
        if column in topic.choices:
            chosen = topic.choices[column]
            named = pc.is_in(array, value_set=pa.array(chosen, array.type))
            listed = ", ".join(_shown(each) for each in chosen[:8]) + (" ..." if len(chosen) > 8 else "")
            yield column, _mask(pc.and_(pc.invert(named), array.is_valid())), f"not one of {listed}"


def _outside(column: str, array: pa.Array, least: Bound, most: Bound, unit: str) -> Iterator[tuple[str, _Mask, str]]:
    # A null is within.
    for bound, within, said in ((least, pc.greater_equal, "less than"), (most, pc.less_equal, "more than")):
        if bound is not None:
            inside = within(array, pa.scalar(bound, array.type)).fill_null(True)
            yield column, ~_mask(inside), f"{said} {bound}{unit}"


def _mask(array: pa.Array) -> _Mask:
    found: _Mask = np.asarray(array, dtype=np.bool_)
    return found


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}... ({len(str(value))} characters)"
