"""Events of formats with a schema registry: a zero byte, the id of the schema that wrote it, then the event.

The writer's schema comes from the registry by that id, the reader's from the definition. Events of one schema are
read together, so what a schema can do for the topic is found out once.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.errors import IncompatibleSchemaError, InvalidEventError, UnknownSchemaError
from featurestore.spec import Topic
from streams.codecs.codec import Decoded
from streams.codecs.columns import decoded_of, microseconds
from streams.codecs.json import JsonCodec
from streams.codecs.rejections import Rejected, Rejections
from streams.schemas import Kind, Schemas, WrittenSchema

MAGIC = 0
_HEAD = struct.Struct(">bI")


class Reader(Protocol):
    """Reads events that one schema wrote."""

    def read(self, body: bytes) -> Any:
        """One event as the format's library gives it. May raise anything: then the bytes are broken."""
        ...

    def column(self, name: str, events: Sequence[Any]) -> list[Any]:
        """A column of the topic out of what `read` gave; None where an event has no value."""
        ...


class FramedCodec(ABC):
    """What Avro and Protobuf share."""

    kind: ClassVar[Kind]
    broken: ClassVar[str]
    head_bytes: ClassVar[int] = _HEAD.size

    def __init__(self, topic: Topic, schemas: Schemas) -> None:
        self._topic, self._schemas = topic, schemas
        self._typed = JsonCodec(topic)
        self._readers: dict[Hashable, Reader | IncompatibleSchemaError] = {}
        self._written_id: int | None = None

    @property
    def subject(self) -> str:
        """Where the registry keeps the schemas of this topic's events."""
        return f"{self._topic.name}-value"

    def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
        rejected: list[Rejected] = []
        alike: dict[Hashable, list[tuple[int, bytes]]] = {}
        # Most heads are as long as this and say the same, so each is read once.
        size = self.head_bytes
        heads: dict[bytes, list[tuple[int, bytes]]] = {}
        for place, payload in enumerate(payloads):
            if payload is None:
                rejected.append(Rejected(place, "no_value", "the record has no value (a tombstone)"))
                continue
            records = heads.get(payload[:size])
            if records is not None:
                records.append((place, payload[size:]))
                continue
            try:
                schema, start = self._schema_of(payload)
            except ValueError as error:
                rejected.append(Rejected(place, self.broken, str(error)))
                continue
            records = alike.setdefault(schema, [])
            records.append((place, payload[start:]))
            if start == size:
                heads[payload[:size]] = records
        parts = [self._decode_alike(schema, records, rejected) for schema, records in alike.items()]
        return _together(self._topic, parts, rejected)

    def decode_first(self, payloads: Sequence[bytes | None]) -> tuple[Decoded, int]:
        # Values take about as much as the text that they come from, and a batch has a bound for that.
        return self.decode(payloads), len(payloads)

    def encode(self, events: Sequence[Mapping[str, Any]]) -> list[bytes]:
        out = []
        for event in events:
            try:
                typed = self._typed.typed(event)
                values = {name: getattr(typed, name) for name in self._topic.schema}
                for name, dtype in self._topic.schema.items():
                    if dtype == "timestamp":
                        values[name] = microseconds(values[name])
                out.append(self._head() + self._body(values))
            except (msgspec.ValidationError, UnicodeEncodeError, TypeError) as error:
                raise InvalidEventError(self._topic.name, str(error)) from error
        return out

    @abstractmethod
    def _reader(self, schema: WrittenSchema, key: Hashable) -> Reader:
        """The reader of a schema; raises IncompatibleSchemaError."""

    @abstractmethod
    def _own_schema(self) -> WrittenSchema:
        """What this topic's events are written with."""

    @abstractmethod
    def _body(self, values: Mapping[str, Any]) -> bytes:
        """One event of the topic's own schema, by column, time stamps in microseconds."""

    def _schema_of(self, payload: bytes) -> tuple[Hashable, int]:
        """What decides how a record is read, its schema's id first, and where its body begins. Raises ValueError."""
        return (schema_id(payload),), _HEAD.size

    def _head(self) -> bytes:
        if self._written_id is None:
            self._written_id = self._schemas.register(self.subject, self._own_schema())
        return _HEAD.pack(MAGIC, self._written_id)

    def _decode_alike(self, key: Any, records: list[tuple[int, bytes]], rejected: list[Rejected]) -> Decoded | None:
        try:
            reader = self._known_reader(key)
        except UnknownSchemaError as error:
            rejected += [Rejected(place, "unknown_schema", str(error)) for place, _ in records]
            return None
        except IncompatibleSchemaError as error:
            rejected += [Rejected(place, "incompatible_schema", str(error)) for place, _ in records]
            return None
        events, index, read = [], [], reader.read
        for place, body in records:
            try:
                events.append(read(body))
                index.append(place)
            # Nothing is hidden: the bytes become a dead letter that says what was raised. What a library raises for
            # bytes that nobody foresaw is no closed list, and must not end a worker.
            except Exception as error:
                rejected.append(Rejected(place, self.broken, f"{type(error).__name__}: {error}"[:500]))
        columns = {name: reader.column(name, events) for name in self._topic.schema}
        return decoded_of(self._topic, index, columns, ())

    def _known_reader(self, key: Any) -> Reader:
        if key not in self._readers:
            try:
                written = self._schemas.schema(key[0], self.kind)
                if written.kind != self.kind:
                    raise IncompatibleSchemaError(key[0], f"it is of kind {written.kind}, not {self.kind}")
                self._readers[key] = self._reader(written, key)
            except IncompatibleSchemaError as error:
                self._readers[key] = error
        found = self._readers[key]
        if isinstance(found, IncompatibleSchemaError):
            raise found.with_traceback(None)
        return found


def schema_id(payload: bytes) -> int:
    """The id in front of an event; raises ValueError where there is none."""
    if len(payload) < _HEAD.size:
        raise ValueError(f"{len(payload)} bytes are too short for a schema id")
    magic, found = _HEAD.unpack_from(payload)
    if magic != MAGIC:
        raise ValueError(f"begins with byte {payload[0]}, not with the 0 that stands before a schema id")
    return int(found)


def _together(topic: Topic, parts: Sequence[Decoded | None], rejected: Sequence[Rejected]) -> Decoded:
    """Parts of a batch as one, in the order of its records."""
    there = [part for part in parts if part is not None]
    bad = Rejections.of([*rejected, *(one for part in there for one in part.rejected)])
    if not there:
        return decoded_of(topic, (), dict.fromkeys(topic.schema, ()), bad)
    if len(there) == 1:
        return Decoded(there[0].index, there[0].arrays, bad)
    index = np.concatenate([part.index for part in there])
    order = np.argsort(index)
    chosen = pa.array(order)
    arrays = {name: pa.concat_arrays([part.arrays[name] for part in there]).take(chosen) for name in topic.schema}
    return Decoded(index[order], arrays, bad)
