"""Arrow events: a record is an IPC stream of record batches, so it holds as many events as its producer likes.

All events of a record share its offset and are told apart by their place in it. A record that is no stream, or whose
columns are not those of the contract, is rejected whole; a bad row is rejected alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidEventError
from featurestore.kernel import ARROW_TYPES, PLACES_MAX, DataType
from featurestore.spec import Topic
from streams.codecs.codec import Decoded, without
from streams.codecs.columns import microseconds, not_numbers, outside_time
from streams.codecs.json import JsonCodec
from streams.codecs.rejections import Rejected, Rejections

BROKEN = "broken_arrow"
_NANOSECONDS_IN = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
Reasons = dict[int, tuple[str, str]]


class ArrowCodec:
    """Encode and decode the Arrow records of one topic."""

    def __init__(self, topic: Topic) -> None:
        self._topic, self._typed = topic, JsonCodec(topic)

    def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
        rejected: list[Rejected] = []
        parts: list[tuple[int, dict[str, pa.Array], Reasons]] = []
        for place, payload in enumerate(payloads):
            if payload is None:
                rejected.append(Rejected(place, "no_value", "the record has no value (a tombstone)"))
                continue
            # Nothing is hidden: the bytes become a dead letter that says what was raised. What the library raises
            # for bytes that nobody foresaw is no closed list, and must not end a worker.
            try:
                parts.append((place, *self._columns(_table(payload))))
            except _RefusedError as refused:
                rejected.append(Rejected(place, refused.reason, str(refused)))
            except Exception as error:
                rejected.append(Rejected(place, BROKEN, f"{type(error).__name__}: {error}"[:500]))
        counts = [len(next(iter(arrays.values()))) for _, arrays, _ in parts]
        first = np.cumsum([0, *counts])
        reasons = {
            int(begin) + row: reason
            for begin, (_, _, bad) in zip(first[:-1], parts, strict=True)
            for row, reason in bad.items()
        }
        arrays = {
            name: pa.concat_arrays([arrays[name] for _, arrays, _ in parts] or [pa.array([], ARROW_TYPES[dtype])])
            for name, dtype in self._topic.schema.items()
        }
        index = np.repeat(np.array([place for place, _, _ in parts], dtype=np.int64), counts)
        position = np.concatenate([np.arange(count, dtype=np.int64) for count in counts] or [np.zeros(0, np.int64)])
        return without(Decoded(index, arrays, Rejections.of(rejected), position), reasons)

    def encode(self, events: Sequence[Mapping[str, Any]]) -> list[bytes]:
        rows = []
        for event in events:
            try:
                rows.append(self._typed.typed(event))
            except (msgspec.ValidationError, TypeError) as error:
                raise InvalidEventError(self._topic.name, str(error)) from error
        if not rows:
            return []
        arrays = []
        for name, dtype in self._topic.schema.items():
            values = [getattr(row, name) for row in rows]
            try:
                if dtype == "timestamp":
                    arrays.append(pa.array(list(map(microseconds, values)), pa.int64()).cast(ARROW_TYPES[dtype]))
                else:
                    arrays.append(pa.array(values, ARROW_TYPES[dtype]))
            except UnicodeEncodeError as error:
                raise InvalidEventError(self._topic.name, f"{error} - at `$.{name}`") from error
        table = pa.table(arrays, schema=self._topic.arrow_schema)
        return [_stream(table.slice(start, PLACES_MAX)) for start in range(0, len(table), PLACES_MAX)]

    def _columns(self, table: pa.Table) -> tuple[dict[str, pa.Array], Reasons]:
        """The contract's columns of one record, and its bad rows. Raises _RefusedError for the record as a whole."""
        if not 0 < len(table) <= PLACES_MAX:
            if len(table):
                raise _RefusedError("too_many_events", f"{len(table)} events in a record, {PLACES_MAX} are the most")
            # Every record is applied or a dead letter: one without events cannot be applied.
            raise _RefusedError("no_events", "the record has no events")
        arrays: dict[str, pa.Array] = {}
        reasons: Reasons = {}
        for name, dtype in self._topic.schema.items():
            named = [each for each in (name, *self._topic.renamed.get(name, ())) if each in table.column_names]
            if not named:
                if name not in self._topic.nullable:
                    raise _RefusedError("incompatible_schema", f"it has no column {name!r}, which may not be null")
                arrays[name] = pa.nulls(len(table), ARROW_TYPES[dtype])
                continue
            if table.column_names.count(named[0]) > 1:
                raise _RefusedError("incompatible_schema", f"it has the column {named[0]!r} twice")
            column = table[named[0]].combine_chunks()
            column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            # Offsets, lengths and UTF-8 are looked at before anything else reads the values.
            column.validate(full=True)
            arrays[name], wrong = _cast(column, named[0], dtype)
            for row in np.flatnonzero(wrong).tolist():
                shown = repr(column[row])[:80]
                reasons.setdefault(row, ("wrong_type", f"{shown} cannot become {dtype} - at `$.{name}`"))
            if name not in self._topic.nullable:
                missing = np.asarray(column.is_null()) if column.null_count else np.zeros(0, np.bool_)
                for row in np.flatnonzero(missing).tolist():
                    reasons.setdefault(row, ("missing_field", f"no value - at `$.{name}`"))
        return arrays, reasons


def one_row(payload: bytes, position: int) -> bytes:
    """A record with one event of a record, as its producer wrote it: what is kept of a rejected row."""
    return _stream(_opened(payload).slice(position, 1))


class _RefusedError(Exception):
    """A record cannot be taken as a whole."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


@lru_cache(maxsize=1)
def _opened(payload: bytes) -> pa.Table:
    """Of the record whose rows become letters, one after the other."""
    return _table(payload)


def _table(payload: bytes) -> pa.Table:
    # A stream may also just end, but then nobody knows whether batches were cut off.
    if not payload.endswith(_END):
        raise ValueError("it does not end as a stream that was closed")
    source = pa.BufferReader(payload)
    with pa.ipc.open_stream(source) as stream:
        table = stream.read_all()
        if source.tell() != len(payload):
            raise ValueError(f"{len(payload) - source.tell()} bytes too many")
    # Cheap, and needed before anything asks for a value: lengths of buffers against lengths of columns.
    table.validate()
    return table


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _cast(column: pa.Array, name: str, dtype: DataType) -> tuple[pa.Array, np.ndarray]:
    """A column in its type of the contract, and where it could not be: there its value means nothing."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    wrong = np.zeros(len(column), dtype=np.bool_)
    if pa.types.is_null(kind):
        return pa.nulls(len(column), ARROW_TYPES[dtype]), wrong
    if not _CAN[dtype](kind):
        raise _RefusedError("incompatible_schema", f"its column {name!r} is {kind}, which cannot become {dtype}")
    if dtype == "float64":
        # Whole numbers become the nearest float, as in every other format.
        column = column.cast(pa.float64(), safe=False)
        return column, not_numbers(column)
    if dtype in ("string", "bool"):
        return column.cast(ARROW_TYPES[dtype]), wrong
    if pa.types.is_timestamp(kind):
        column, wrong = _microseconds(column)
    elif pa.types.is_uint64(kind):
        wrong = np.asarray(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())).fill_null(False))
        column = _less(column, wrong).cast(pa.int64())
    else:
        column = column.cast(pa.int64())
    if dtype == "timestamp":
        wrong = wrong | outside_time(column.fill_null(0).to_numpy(zero_copy_only=False))
        column = _less(column, wrong).cast(ARROW_TYPES[dtype])
    return column, wrong


def _microseconds(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Time stamps of any unit as int64 microseconds, rounded down, and which of them are beyond int64."""
    nanoseconds = _NANOSECONDS_IN[column.type.unit]
    numbers = column.cast(pa.int64())
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False)
    if nanoseconds < 1_000:
        scaled, wrong = values // 1_000, np.zeros(len(values), dtype=np.bool_)
    else:
        times = nanoseconds // 1_000
        wrong = np.abs(values) > (2**63 - 1) // times
        scaled = np.where(wrong, 0, values) * times
    missing = np.asarray(numbers.is_null())
    return pa.array(scaled, pa.int64(), mask=missing | wrong), wrong


def _less(column: pa.Array, wrong: np.ndarray) -> pa.Array:
    """The column with nulls in some places."""
    return pc.if_else(pa.array(wrong), pa.scalar(None, column.type), column) if wrong.any() else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_moment(kind: pa.DataType) -> bool:
    # Whole numbers are microseconds, as in JSON. A time stamp without a zone names no moment.
    return bool(pa.types.is_integer(kind) or (pa.types.is_timestamp(kind) and kind.tz is not None))


_CAN: dict[DataType, Callable[[pa.DataType], bool]] = {
    "string": _is_text,
    "int64": lambda kind: bool(pa.types.is_integer(kind)),
    "float64": lambda kind: bool(pa.types.is_integer(kind) or pa.types.is_floating(kind)),
    "bool": lambda kind: bool(pa.types.is_boolean(kind)),
    "timestamp": _is_moment,
}
