"""JSON events: one object a record, checked against the topic's contract as it is decoded.

Producers and the engine use the same contract: what a producer may send is what the engine accepts. msgspec says what
that is; plain records are read by a compiled loop that is held to it, all others by msgspec itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.errors import InvalidEventError
from featurestore.event_time import MOMENT_MAX_US, moment_us
from featurestore.kernel import ARROW_TYPES, DataType, arrow_type, decimal_type
from featurestore.spec import Topic
from streams.codecs import json_columns
from streams.codecs.codec import Decoded, Ints
from streams.codecs.columns import outside_said, outside_time
from streams.codecs.rejections import Rejected, Rejections
from streams.payloads import picked

_MINUTE = timedelta(minutes=1)
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
# A time stamp is microseconds since 1970, or ISO 8601 text with its zone; 9999 is the last year that both can say.
_MOMENT = Annotated[int, msgspec.Meta(ge=0, le=MOMENT_MAX_US)] | Annotated[datetime, msgspec.Meta(tz=True)]
_TYPES: dict[DataType, Any] = {
    "string": str,
    "int64": _INT64,
    "float64": float,
    "bool": bool,
    "timestamp": _MOMENT,
}


class JsonCodec:
    """Encode and decode the events of one topic."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._times = [name for name, dtype in topic.schema.items() if dtype == "timestamp"]
        self._floats = [name for name, dtype in topic.schema.items() if dtype == "float64"]
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        self._decimals = {name: found for name, dtype in topic.schema.items() if (found := decimal_type(dtype))}
        for name, dtype in topic.schema.items():
            if name in self._decimals:
                # As it is written: a float in between would lose digits.
                fields.append((name, msgspec.Raw, None) if name in topic.nullable else (name, msgspec.Raw))
                continue
            kind = _TYPES[dtype]
            fields.append((name, kind | None, None) if name in topic.nullable else (name, kind))
        event = msgspec.defstruct("Event", fields, kw_only=True, frozen=False, gc=False)
        self._event = event
        self._one = msgspec.json.Decoder(event)
        self._reader = json_columns.reader(topic, self._refusals)

    def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
        """Columns of the records that keep the contract; each of the others with its reason."""
        if self._reader is None:
            return self._decode_one_by_one(payloads, np.arange(len(payloads)))
        read = self._reader.read(payloads)
        if not len(read.unsure):
            return Decoded(read.index, read.arrays, read.rejected)
        others = self._decode_one_by_one(payloads, read.unsure)
        rejected = read.rejected.beside(others.rejected)
        if not len(others.index):
            return Decoded(read.index, read.arrays, rejected)
        index = np.concatenate((read.index, others.index))
        order = np.argsort(index)
        both = {
            name: pa.concat_arrays([array, others.arrays[name]]).take(pa.array(order))
            for name, array in read.arrays.items()
        }
        return Decoded(index[order], both, rejected)

    def _refusals(self, payloads: Sequence[bytes]) -> Rejections:
        """What msgspec says of the records that it does not take."""
        return self._decode_one_by_one(payloads, np.arange(len(payloads))).rejected

    def _decode_one_by_one(self, payloads: Sequence[bytes | None], places: Ints) -> Decoded:
        """The records at these places of a batch, by msgspec: each as it would be alone."""
        events, index, rejected = self._with_decimals(*self._events(payloads, places))
        # Column by column: a tuple an event would be as many objects for the garbage collector to go through.
        arrays = {
            name: _array(list(map(attrgetter(name), events)), dtype) for name, dtype in self._topic.schema.items()
        }
        return self._within_time(Decoded(np.array(index, dtype=np.int64), arrays, Rejections.of(rejected)))

    def _within_time(self, decoded: Decoded) -> Decoded:
        """Numbers outside are refused while they are decoded; a text's zone can still move its moment out."""
        moments = {
            name: decoded.arrays[name].cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            for name in self._times
        }
        outside = {name: outside_time(moments_us) for name, moments_us in moments.items()}
        bad = np.logical_or.reduce(list(outside.values()))
        if not bad.any():
            return decoded
        rejected = list(decoded.rejected)
        for place in np.flatnonzero(bad).tolist():
            name = next(each for each in self._times if outside[each][place])
            said = f"{outside_said(int(moments[name][place]))} - at `$.{name}`"
            rejected.append(Rejected(int(decoded.index[place]), "wrong_type", said))
        kept = np.flatnonzero(~bad)
        arrays = {name: array.take(pa.array(kept)) for name, array in decoded.arrays.items()}
        return Decoded(decoded.index[kept], arrays, Rejections.of(rejected))

    def check(self, event: Mapping[str, Any]) -> bytes:
        """The bytes of one event; raises `msgspec.ValidationError` as the engine would refuse it."""
        encoded = _encoded(event)
        self.read(encoded)
        return encoded

    def read(self, payload: bytes) -> Any:
        """One event as an object with the topic's columns.

        Raises `msgspec.DecodeError` or UnicodeDecodeError where the engine refuses.
        """
        try:
            event = self._one.decode(payload)
            _check_text(payload)
        except RecursionError as error:
            raise msgspec.DecodeError("nested too deeply") from error
        return self._timely(event)

    def typed(self, event: Mapping[str, Any]) -> Any:
        """A mapping as such an object; raises `msgspec.ValidationError` like `read`."""
        values = dict(event)
        for name in self._decimals:
            if values.get(name) is not None:
                values[name] = msgspec.Raw(msgspec.json.encode(values[name]))
        typed = self._timely(msgspec.convert(values, self._event))
        for name in self._floats:
            value = getattr(typed, name)
            # JSON has no word for it: what would be written is null.
            if value is not None and not isfinite(value):
                raise msgspec.ValidationError(f"{value} is no number - at `$.{name}`")
        return typed

    def decode_first(self, payloads: Sequence[bytes | None]) -> tuple[Decoded, int]:
        # Values take about as much as the text that they come from, and a batch has a bound for that.
        return self.decode(payloads), len(payloads)

    def encode(self, events: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The records of some events, one each; raises InvalidEventError as the engine would refuse."""
        out = []
        for event in events:
            try:
                # Not only by reading it again: bytes are written as base64, which would read as text. But also so: a
                # Decimal is a number here and a text there.
                self.typed(event)
                encoded = _encoded(event)
                self._one.decode(encoded)
                out.append(encoded)
            except RecursionError as error:
                raise InvalidEventError(self._topic.name, "nested too deeply") from error
            except (msgspec.ValidationError, UnicodeEncodeError, TypeError) as error:
                raise InvalidEventError(self._topic.name, str(error)) from error
        return out

    def _timely(self, event: Any) -> Any:
        for name in self._times:
            moment = getattr(event, name)
            if isinstance(moment, datetime) and not 0 <= (us := moment_us(moment)) <= MOMENT_MAX_US:
                raise msgspec.ValidationError(f"{outside_said(us)} - at `$.{name}`")
        self._read_decimals(event)
        return event

    def _read_decimals(self, event: Any) -> None:
        """Turn the event's decimals from JSON into numbers; raises `msgspec.ValidationError`."""
        for name, decimals in self._decimals.items():
            raw = getattr(event, name)
            text = "null" if raw is None else bytes(raw).decode()
            if text == "null" and name in self._topic.nullable:
                setattr(event, name, None)
                continue
            try:
                setattr(event, name, decimals.exactly(text[1:-1] if text[:1] == text[-1:] == '"' else text))
            except ValueError as error:
                raise msgspec.ValidationError(f"{error} - at `$.{name}`") from error

    def _with_decimals(
        self, events: list[Any], index: Sequence[int], rejected: list[Rejected]
    ) -> tuple[list[Any], Sequence[int], list[Rejected]]:
        """The events whose decimals their types can hold; the others are rejected."""
        if not self._decimals:
            return events, index, rejected
        kept, places = [], []
        for event, place in zip(events, index, strict=True):
            try:
                self._read_decimals(event)
            except msgspec.ValidationError as error:
                rejected.append(Rejected(place, "wrong_type", str(error)))
                continue
            kept.append(event)
            places.append(place)
        return kept, places, rejected

    def _events(self, payloads: Sequence[bytes | None], places: Ints) -> tuple[list[Any], list[int], list[Rejected]]:
        events, index, rejected, decode = [], [], [], self._one.decode
        for place, payload in zip(places.tolist(), picked(payloads, places), strict=True):
            if payload is None:
                rejected.append(Rejected(place, "no_value", "the record has no value (a tombstone)"))
                continue
            try:
                event = decode(payload)
                _check_text(payload)
            except msgspec.DecodeError as error:
                detail = str(error)
                rejected.append(Rejected(place, _reason(error, detail), detail))
            except UnicodeDecodeError as error:
                rejected.append(Rejected(place, "broken_json", str(error)))
            except RecursionError:
                rejected.append(Rejected(place, "broken_json", "nested too deeply"))
            else:
                events.append(event)
                index.append(place)
        return events, index, rejected


def _encoded(event: Mapping[str, Any]) -> bytes:
    """An event as JSON: msgspec rounds a zone to minutes, and would move the moments of one that has seconds."""
    odd = {
        name: value.astimezone(UTC)
        for name, value in event.items()
        if isinstance(value, datetime) and (zone := value.utcoffset()) is not None and zone % _MINUTE
    }
    return msgspec.json.encode({**event, **odd} if odd else event)


def _check_text(payload: bytes) -> None:
    """Raise UnicodeDecodeError of what is not UTF-8 in fields that no column reads, where msgspec does not look."""
    if not payload.isascii():
        payload.decode()


def _reason(error: msgspec.DecodeError, detail: str) -> str:
    if not isinstance(error, msgspec.ValidationError):
        return "broken_json"
    return "missing_field" if "missing required field" in detail else "wrong_type"


def _array(values: list[Any], dtype: DataType) -> pa.Array:
    if dtype == "timestamp":
        if not set(map(type, values)) <= {int, type(None)}:
            values = [moment_us(value) if isinstance(value, datetime) else value for value in values]
        return pa.array(values, pa.int64()).cast(ARROW_TYPES[dtype])
    return pa.array(values, arrow_type(dtype))
