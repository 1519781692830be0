"""Arrow events: a record is an IPC stream of record batches, so it holds as many events as its producer likes.

All events of a record share its offset and are told apart by their place in it. A record that is no stream, or whose
columns are not those of the contract, is rejected whole; a bad row is rejected alone, unless a record has too many
(`BAD_EVENTS_MAX`): then it is rejected whole too.

A few bytes can say a lot: compressed, by a dictionary, by views of one text, or as a million nulls. What a record takes
in memory is therefore known before it is taken there, and has a bound; so has what is decoded together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidEventError
from featurestore.kernel import ARROW_TYPES, PLACES_MAX, DataType
from featurestore.spec import Topic
from streams.codecs.arrow_sizes import BODY_BYTES_MAX, bytes_in_memory, values_bytes
from streams.codecs.codec import BAD_EVENTS_MAX, TOO_MANY_BAD, Decoded, too_many_bad, without
from streams.codecs.columns import microseconds, not_numbers, outside_time
from streams.codecs.json import JsonCodec
from streams.codecs.rejections import Rejected, Rejections

BROKEN = "broken_arrow"
TOO_LARGE = "too_large"
# The values of one record, in the types of the contract: a million events of eight numbers.
RECORD_BYTES_MAX = 64 << 20
# The engine takes as many bytes of other formats in one go. One more record may be begun below this bound.
PART_BYTES_MAX = 32 << 20
# Arrow has no more than 2 GiB of text in a column.
WHOLE_BYTES_MAX = 1 << 30
# About what an event costs that becomes a letter.
_REJECTED_BYTES = 1_000
_COMPRESSED_BYTES_MIN = 4_096
_NANOSECONDS_IN = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
Reasons = dict[int, tuple[str, str]]
# Which rows have it, and what is said of one of them.
_Fault = tuple[npt.NDArray[np.bool_], Callable[[int], tuple[str, str]]]


class ArrowCodec:
    """Encode and decode the Arrow records of one topic."""

    def __init__(self, topic: Topic) -> None:
        self._topic, self._typed = topic, JsonCodec(topic)

    def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
        decoded, count = self._decode(payloads, WHOLE_BYTES_MAX)
        if count == len(payloads):
            return decoded
        why = f"the {count} records before it hold more than {WHOLE_BYTES_MAX} bytes; decode fewer at once"
        rest = [Rejected(place, TOO_LARGE, why) for place in range(count, len(payloads))]
        return replace(decoded, rejected=Rejections.of([*decoded.rejected, *rest]))

    def decode_first(self, payloads: Sequence[bytes | None]) -> tuple[Decoded, int]:
        return self._decode(payloads, PART_BYTES_MAX)

    def _decode(self, payloads: Sequence[bytes | None], bytes_max: int) -> tuple[Decoded, int]:
        """Records until their values have so many bytes, and how many these are: one at least."""
        rejected: list[Rejected] = []
        parts: list[tuple[int, dict[str, pa.Array], Reasons]] = []
        size = count = 0
        for place, payload in enumerate(payloads):
            if size >= bytes_max:
                break
            count += 1
            if payload is None:
                rejected.append(Rejected(place, "no_value", "the record has no value (a tombstone)"))
                continue
            # Nothing is hidden: the bytes become a dead letter that says what was raised. What the library raises
            # for bytes that nobody foresaw is no closed list, and must not end a worker.
            try:
                arrays, bad, its_size = self._columns(_table(payload))
            except _RefusedError as refused:
                rejected.append(Rejected(place, refused.reason, str(refused)))
                size += refused.size
            except Exception as error:
                rejected.append(Rejected(place, BROKEN, f"{type(error).__name__}: {error}"[:500]))
            else:
                parts.append((place, arrays, bad))
                size += its_size + _REJECTED_BYTES * len(bad)
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
        position = np.concatenate([np.arange(rows, dtype=np.int64) for rows in counts] or [np.zeros(0, np.int64)])
        return without(Decoded(index, arrays, Rejections.of(rejected), position), reasons), count

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

    def _columns(self, table: pa.Table) -> tuple[dict[str, pa.Array], Reasons, int]:
        """The contract's columns of one record, its bad rows, and the bytes of these columns.

        Raises _RefusedError for the record as a whole.
        """
        if not 0 < len(table) <= PLACES_MAX:
            if len(table):
                raise _RefusedError("too_many_events", f"{len(table)} events in a record, {PLACES_MAX} are the most")
            # Every record is applied or a dead letter: one without events cannot be applied.
            raise _RefusedError("no_events", "the record has no events")
        found = {name: self._found(table, name, dtype) for name, dtype in self._topic.schema.items()}
        size = sum(values_bytes(found[name], dtype, len(table)) for name, dtype in self._topic.schema.items())
        if size > RECORD_BYTES_MAX:
            raise _RefusedError(TOO_LARGE, f"its values take {size} bytes, {RECORD_BYTES_MAX} are the most")
        arrays: dict[str, pa.Array] = {}
        faults: list[_Fault] = []
        for name, dtype in self._topic.schema.items():
            column = found[name]
            if column is None:
                arrays[name] = pa.nulls(len(table), ARROW_TYPES[dtype])
                continue
            # Offsets, lengths and UTF-8 are looked at before anything else reads the values.
            column.validate(full=True)
            arrays[name], wrong = _cast(column, dtype)
            if wrong.any():
                faults.append((wrong, partial(_wrong, column, name, dtype)))
            if name not in self._topic.nullable:
                # Of the values, for a dictionary may have a null among its own. Those that are wrong have been named.
                missing = np.asarray(arrays[name].is_null()) if arrays[name].null_count else np.zeros(0, np.bool_)
                if missing.any():
                    faults.append((missing, partial(_missing, name)))
        return arrays, _reasons(faults, size), size

    def _found(self, table: pa.Table, name: str, dtype: DataType) -> pa.ChunkedArray | None:
        """A column of the contract as it was written, None where there may be none. Raises _RefusedError."""
        named = [each for each in (name, *self._topic.renamed.get(name, ())) if each in table.column_names]
        if not named:
            if name not in self._topic.nullable:
                raise _RefusedError("incompatible_schema", f"it has no column {name!r}, which may not be null")
            return None
        if table.column_names.count(named[0]) > 1:
            raise _RefusedError("incompatible_schema", f"it has the column {named[0]!r} twice")
        kind = table.schema.field(named[0]).type
        if not _can_become(kind, dtype):
            raise _RefusedError(
                "incompatible_schema", f"its column {named[0]!r} is {kind}, which cannot become {dtype}"
            )
        return table[named[0]]


def one_row(payload: bytes, position: int, columns: frozenset[str]) -> bytes:
    """A record with one event of a record that was decoded: what is kept of a rejected row.

    columns  the names that its topic reads, former ones too

    Values are as the producer wrote them, and nothing else of the record comes along: no dictionary of all its
    events, and no column that its contract does not name, of which a few bytes can hold any number.
    """
    ends, batches = _opened(payload, columns)
    at = bisect_right(ends, position)
    row = batches[at].slice(position - ends[at] + len(batches[at]), 1)
    event = pa.table([_alone(column) for column in row.columns], names=row.schema.names)
    # Short texts only grow when they are compressed; a long one may be all that made its record short.
    return _stream(event, "zstd" if event.nbytes >= _COMPRESSED_BYTES_MIN else None)


class _RefusedError(Exception):
    """A record cannot be taken as a whole."""

    def __init__(self, reason: str, detail: str, size: int = 0) -> None:
        self.reason, self.size = reason, size
        super().__init__(detail)


def _reasons(faults: Sequence[_Fault], size: int) -> Reasons:
    """The first reason of each bad row. Raises _RefusedError where these are too many, before a word is said of each.

    size  of the record's values: to find that out took as much as to read them
    """
    if not faults:
        return {}
    bad = np.logical_or.reduce([rows for rows, _ in faults])
    count = int(np.count_nonzero(bad))
    if count > BAD_EVENTS_MAX:
        first = int(np.argmax(bad))
        why = next(said(first) for rows, said in faults if rows[first])
        raise _RefusedError(TOO_MANY_BAD, too_many_bad(count, len(bad), first, *why), size)
    reasons: Reasons = {}
    for rows, said in faults:
        for row in np.flatnonzero(rows).tolist():
            if row not in reasons:
                reasons[row] = said(row)
    return reasons


def _wrong(column: pa.ChunkedArray, name: str, dtype: DataType, row: int) -> tuple[str, str]:
    return "wrong_type", f"{repr(column[row])[:80]} cannot become {dtype} - at `$.{name}`"


def _missing(name: str, row: int) -> tuple[str, str]:
    return "missing_field", f"no value - at `$.{name}`"


@lru_cache(maxsize=1)
def _opened(payload: bytes, columns: frozenset[str]) -> tuple[list[int], list[pa.RecordBatch]]:
    """Of the record whose rows become letters, one after the other: its batches, and before which row each ends.

    Of the columns those that a topic could read: what has another name, or no type of any contract, decides nothing.
    """
    table = _table(payload)
    read = [
        place
        for place, field in enumerate(table.schema)
        if field.name in columns and any(_can_become(field.type, dtype) for dtype in _CAN)
    ]
    batches = table.select(read).to_batches()
    return np.cumsum([len(batch) for batch in batches]).tolist(), batches


def _table(payload: bytes) -> pa.Table:
    # A stream may also just end, but then nobody knows whether batches were cut off.
    if not payload.endswith(_END):
        raise ValueError("it does not end as a stream that was closed")
    size = bytes_in_memory(payload)
    if size > BODY_BYTES_MAX:
        raise _RefusedError(TOO_LARGE, f"it becomes {size} bytes when it is read, {BODY_BYTES_MAX} are the most")
    source = pa.BufferReader(payload)
    with pa.ipc.open_stream(source) as stream:
        table = stream.read_all()
        if source.tell() != len(payload):
            raise ValueError(f"{len(payload) - source.tell()} bytes too many")
    # Cheap, and needed before anything asks for a value: lengths of buffers against lengths of columns.
    table.validate()
    return table


def _stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _alone(array: pa.Array) -> pa.Array:
    """A column of one row, without what the other rows' values lie in."""
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    return array.cast(pa.string()) if pa.types.is_string_view(array.type) else array


def _cast(parts: pa.ChunkedArray, dtype: DataType) -> tuple[pa.Array, np.ndarray]:
    """A column in its type of the contract, and where it could not be: there its value means nothing."""
    kind = parts.type
    if pa.types.is_dictionary(kind):
        # Part by part: each may have a dictionary of its own, and to make one of all costs more than to have none.
        kind = kind.value_type
        parts = pa.chunked_array([part.dictionary_decode() for part in parts.chunks], kind)
    column = parts.combine_chunks()
    wrong = np.zeros(len(column), dtype=np.bool_)
    if pa.types.is_null(kind):
        return pa.nulls(len(column), ARROW_TYPES[dtype]), wrong
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


def _can_become(kind: pa.DataType, dtype: DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        if pa.types.is_string_view(kind):
            return False  # nothing in the library decodes it
    return bool(pa.types.is_null(kind)) or _CAN[dtype](kind)


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
