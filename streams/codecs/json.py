"""JSON events: one object a record, checked against the topic's contract as it is decoded.

Producers and the engine use the same contract, so what a producer may send is what the engine accepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.errors import InvalidEventError
from featurestore.event_time import moment_us
from featurestore.kernel import ARROW_TYPES, DataType
from featurestore.spec import Topic
from streams.codecs.codec import Decoded, Rejected

_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
# A time stamp is microseconds since 1970, or ISO 8601 text with its zone; 9999 is the last year that both can say.
_MOMENT = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999_999)] | Annotated[datetime, msgspec.Meta(tz=True)]
_TYPES: dict[DataType, Any] = {
    "string": str,
    "int64": _INT64,
    "float64": float,
    "bool": bool,
    "timestamp": _MOMENT,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JsonCodec:
    """Encode and decode the events of one topic."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._times = [name for name, dtype in topic.schema.items() if dtype == "timestamp"]
        self._floats = [name for name, dtype in topic.schema.items() if dtype == "float64"]
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for name, dtype in topic.schema.items():
            kind = _TYPES[dtype]
            fields.append((name, kind | None, None) if name in topic.nullable else (name, kind))
        event = msgspec.defstruct("Event", fields, kw_only=True, frozen=False, gc=False)
        self._one = msgspec.json.Decoder(event)
        self._many = msgspec.json.Decoder(list[event])  # type: ignore[valid-type]  # a type made here and now
        self._event = event

    def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
        """Columns of the records that keep the contract; each of the others with its reason."""
        events, index, rejected = self._events(payloads)
        # Column by column: a tuple an event would be as many objects for the garbage collector to go through.
        arrays = {
            name: _array(list(map(attrgetter(name), events)), dtype) for name, dtype in self._topic.schema.items()
        }
        return self._since_1970(Decoded(np.array(index, dtype=np.int64), arrays, tuple(rejected)))

    def _since_1970(self, decoded: Decoded) -> Decoded:
        """Numbers below zero are refused while they are decoded; text can still say an earlier moment."""
        early = {
            name: decoded.arrays[name].cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) < 0
            for name in self._times
        }
        bad = np.logical_or.reduce(list(early.values()))
        if not bad.any():
            return decoded
        rejected = list(decoded.rejected)
        for place in np.flatnonzero(bad).tolist():
            name = next(each for each in self._times if early[each][place])
            rejected.append(Rejected(int(decoded.index[place]), "wrong_type", f"a moment before 1970 - at `$.{name}`"))
        kept = np.flatnonzero(~bad)
        arrays = {name: array.take(pa.array(kept)) for name, array in decoded.arrays.items()}
        return Decoded(decoded.index[kept], arrays, tuple(sorted(rejected, key=lambda one: one.index)))

    def check(self, event: Mapping[str, Any]) -> bytes:
        """The bytes of one event; raises `msgspec.ValidationError` as the engine would refuse it."""
        encoded = msgspec.json.encode(event)
        self.read(encoded)
        return encoded

    def read(self, payload: bytes) -> Any:
        """One event as an object with the topic's columns; raises `msgspec.DecodeError` where the engine refuses."""
        try:
            event = self._one.decode(payload)
        except RecursionError as error:
            raise msgspec.DecodeError("nested too deeply") from error
        return self._timely(event)

    def typed(self, event: Mapping[str, Any]) -> Any:
        """A mapping as such an object; raises `msgspec.ValidationError` like `read`."""
        typed = self._timely(msgspec.convert(dict(event), self._event))
        for name in self._floats:
            value = getattr(typed, name)
            # JSON has no word for it: what would be written is null.
            if value is not None and not isfinite(value):
                raise msgspec.ValidationError(f"{value} is no number - at `$.{name}`")
        return typed

    def encode(self, events: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The records of some events, one each; raises InvalidEventError as the engine would refuse."""
        out = []
        for event in events:
            try:
                # Not by reading it again: bytes are written as base64, which would read as text.
                self.typed(event)
                out.append(msgspec.json.encode(event))
            except (msgspec.ValidationError, UnicodeEncodeError, TypeError) as error:
                raise InvalidEventError(self._topic.name, str(error)) from error
        return out

    def _timely(self, event: Any) -> Any:
        for name in self._times:
            moment = getattr(event, name)
            if isinstance(moment, datetime) and moment < _EPOCH:
                raise msgspec.ValidationError(f"a moment before 1970 - at `$.{name}`")
        return event

    def _events(self, payloads: Sequence[bytes | None]) -> tuple[list[Any], Sequence[int], list[Rejected]]:
        if all(payloads):
            try:
                # One call for a whole good batch; any fault falls back to asking each record for its own reason.
                # A record cannot smuggle a second one in: the counts are compared.
                events = self._many.decode(b"[" + b",".join(payloads) + b"]")  # type: ignore[arg-type]  # none is None
                if len(events) == len(payloads):
                    return events, range(len(payloads)), []
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # told below, record by record
        events, index, rejected = [], [], []
        for place, payload in enumerate(payloads):
            if payload is None:
                rejected.append(Rejected(place, "no_value", "the record has no value (a tombstone)"))
                continue
            try:
                events.append(self._one.decode(payload))
                index.append(place)
            except msgspec.ValidationError as error:
                reason = "missing_field" if "missing required field" in str(error) else "wrong_type"
                rejected.append(Rejected(place, reason, str(error)))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                rejected.append(Rejected(place, "broken_json", str(error)))
            except RecursionError:
                rejected.append(Rejected(place, "broken_json", "nested too deeply"))
        return events, index, rejected


def _array(values: list[Any], dtype: DataType) -> pa.Array:
    if dtype == "timestamp":
        if not set(map(type, values)) <= {int, type(None)}:
            values = [moment_us(value) if isinstance(value, datetime) else value for value in values]
        return pa.array(values, pa.int64()).cast(ARROW_TYPES[dtype])
    return pa.array(values, ARROW_TYPES[dtype])
