"""Events of formats with a schema registry: a zero byte, the id of the schema that wrote it, then the event.

The writer's schema comes from the registry by that id, the reader's from the definition. Events of one schema are
read together, so what a schema can do for the topic is found out once.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
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
# So many ids that are new to a codec are asked for in one go; of a flood of them the rest comes in the next.
ASKED_MAX = 1_000
# What a library makes of an event may be a hundred times as large, fields of nobody among it, and is held until its
# columns are made: so much of a batch is held at once.
_HELD_BYTES_MAX = 1 << 20
# Records may name any number of messages that no schema has; to find that out again costs little.
_REFUSED_MAX = 1_000
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
        self._readers: dict[Hashable, Reader] = {}
        # Apart, so that what is refused never takes the place of a reader.
        self._refused: dict[Hashable, str] = {}
        self._written: dict[int, WrittenSchema] = {}
        self._written_id: int | None = None

    @property
    def subject(self) -> str:
        """Where the registry keeps the schemas of this topic's events."""
        return f"{self._topic.name}-value"

    def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
        return self._decode(payloads, len(payloads))[0]

    def decode_first(self, payloads: Sequence[bytes | None]) -> tuple[Decoded, int]:
        return self._decode(payloads, ASKED_MAX)

    def _decode(self, payloads: Sequence[bytes | None], asked_max: int) -> tuple[Decoded, int]:
        """Records up to the one that names one new id too many, and how many these are."""
        rejected: list[Rejected] = []
        asked: set[int] = set()
        count = len(payloads)
        alike: dict[Any, list[tuple[int, bytes]]] = {}
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
            if schema[0] not in self._written and schema[0] not in asked:
                if len(asked) == asked_max:
                    count = place
                    break
                asked.add(schema[0])
            records = alike.setdefault(schema, [])
            records.append((place, payload[start:]))
            if start == size:
                heads[payload[:size]] = records
        unknown = self._ask(asked)
        parts = [self._decode_alike(schema, records, unknown, rejected) for schema, records in alike.items()]
        return _together(self._topic, parts, rejected), count

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

    def _schema_of(self, payload: bytes) -> tuple[Any, int]:
        """What decides how a record is read, its schema's id first, and where its body begins. Raises ValueError."""
        return (schema_id(payload),), _HEAD.size

    def _head(self) -> bytes:
        if self._written_id is None:
            self._written_id = self._schemas.register(self.subject, self._own_schema())
        return _HEAD.pack(MAGIC, self._written_id)

    def _ask(self, ids: Collection[int]) -> dict[int, str]:
        """Learn the schemas of new ids; of those that the registry does not have, what is to be said."""
        unknown = {}
        for each, found in self._schemas.ask(ids, self.kind).items():
            if isinstance(found, UnknownSchemaError):
                unknown[each] = str(found)
            else:
                self._written[each] = found
        return unknown

    def _decode_alike(
        self, key: Any, records: list[tuple[int, bytes]], unknown: Mapping[int, str], rejected: list[Rejected]
    ) -> Decoded | None:
        if key[0] in unknown:
            rejected += [Rejected(place, "unknown_schema", unknown[key[0]]) for place, _ in records]
            return None
        reader = self._known_reader(key)
        if isinstance(reader, str):
            rejected += [Rejected(place, "incompatible_schema", reader) for place, _ in records]
            return None
        read, size = reader.read, 0
        events: list[Any] = []
        index: list[int] = []
        columns: dict[str, list[Any]] = {name: [] for name in self._topic.schema}

        def into_columns() -> None:
            for name, values in columns.items():
                values += reader.column(name, events)
            events.clear()

        for place, body in records:
            if size > _HELD_BYTES_MAX:
                into_columns()
                size = 0
            size += len(body)
            try:
                events.append(read(body))
                index.append(place)
            # Nothing is hidden: the bytes become a dead letter that says what was raised. What a library raises for
            # bytes that nobody foresaw is no closed list, and must not end a worker.
            except Exception as error:
                rejected.append(Rejected(place, self.broken, f"{type(error).__name__}: {error}"[:500]))
        into_columns()
        return decoded_of(self._topic, index, columns, ())

    def _known_reader(self, key: Any) -> Reader | str:
        """The reader of a key, or why there is none."""
        if key in self._refused:
            return self._refused[key]
        if key not in self._readers:
            written = self._written[key[0]]
            try:
                if written.kind != self.kind:
                    raise IncompatibleSchemaError(key[0], f"it is of kind {written.kind}, not {self.kind}")
                self._readers[key] = self._reader(written, key)
            except IncompatibleSchemaError as error:
                if len(self._refused) == _REFUSED_MAX:
                    del self._refused[next(iter(self._refused))]
                self._refused[key] = str(error)
                return self._refused[key]
        return self._readers[key]


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
