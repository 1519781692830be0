"""What an Arrow record takes in memory, told from what it declares: before it is read, and before it is decoded."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.kernel import DataType

# All that a record becomes when it is read, columns that no contract names among it.
BODY_BYTES_MAX = 64 << 20

# Of the tables in a message's head (Arrow's Message.fbs): which field is what.
_MESSAGE_KIND, _MESSAGE_HEAD = 1, 2
_DICTIONARY_ID, _DICTIONARY_ROWS, _DICTIONARY_IS_DELTA = 0, 1, 2
_ROWS_BUFFERS, _ROWS_COMPRESSION = 2, 3
_DICTIONARY, _ROWS = 2, 3
# Before it had a field, compression was said in the message's own metadata.
_OLD_COMPRESSION = b"ARROW:experimental_compression"
_BUFFER = struct.Struct("<qq")
_WIDTHS: dict[DataType, int] = {"string": 4, "int64": 8, "float64": 8, "bool": 1, "timestamp": 8}


def bytes_in_memory(payload: bytes) -> int:
    """What is allocated when a stream is read: its compressed buffers as long as they say that they are.

    The reader allocates exactly these lengths, and refuses a buffer that turns out to have another one. A dictionary
    that grows is copied each time. What is not compressed lies in the record itself, and is not counted.
    Raises anything for bytes that are no stream.
    """
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(payload))
    total = 0
    dictionaries: dict[int, int] = {}
    for message in iter(lambda: _next(messages), None):
        head = _Head(bytes(message.metadata))
        at = head.table(head.root, _MESSAGE_HEAD)
        kind = head.number(head.root, _MESSAGE_KIND, "<B")
        if kind not in (_DICTIONARY, _ROWS):
            continue
        rows = head.table(at, _DICTIONARY_ROWS) if kind == _DICTIONARY else at
        size = _decompressed(head, rows, message.body)
        total += size
        if kind == _DICTIONARY:
            which = head.number(at, _DICTIONARY_ID, "<q")
            held = dictionaries.get(which, 0) if head.number(at, _DICTIONARY_IS_DELTA, "<B") else 0
            dictionaries[which] = held + size + message.body.size
            total += dictionaries[which] if held else 0
    return total


def values_bytes(column: pa.ChunkedArray | None, dtype: DataType, rows: int) -> int:
    """What a column takes in its type of the contract; None is a column of nulls."""
    text = 0 if column is None or dtype != "string" else sum(map(_text_bytes, column.chunks))
    return rows * _WIDTHS[dtype] + text


def _text_bytes(texts: pa.Array) -> int:
    """Of all rows; of broken ones any number, but nothing is read that is not there."""
    if pa.types.is_dictionary(texts.type):
        if pa.types.is_null(texts.type.value_type):
            return 0
        lengths = pc.take(pc.binary_length(texts.dictionary), texts.indices)
    elif pa.types.is_string_view(texts.type):
        # A view begins with its length, and nothing keeps views from being of one and the same text.
        views = np.frombuffer(texts.buffers()[1], dtype="<i4")[4 * texts.offset :: 4][: len(texts)]
        lengths = pa.array(np.maximum(views, 0).astype(np.int64), mask=np.asarray(texts.is_null()))
    elif pa.types.is_null(texts.type):
        return 0
    else:
        lengths = pc.binary_length(texts)
    return int(pc.sum(lengths).as_py() or 0)


def _next(messages: pa.ipc.MessageReader) -> pa.ipc.Message | None:
    try:
        return messages.read_next_message()
    except StopIteration:
        return None


def _decompressed(head: _Head, rows: int, body: pa.Buffer) -> int:
    """The bytes that the compressed buffers of a batch say that they become."""
    if not head.table(rows, _ROWS_COMPRESSION) and _OLD_COMPRESSION not in head.data:
        return 0
    at = head.table(rows, _ROWS_BUFFERS)
    count = head.at(at, "<I") if at else 0
    bytes_of = memoryview(body)
    size = 0
    for start, length in _BUFFER.iter_unpack(head.data[at + 4 : at + 4 + count * _BUFFER.size]):
        if length:
            # -1 where compression would not have been shorter.
            size += max(struct.unpack_from("<q", bytes_of, start)[0], 0)
    return size


class _Head:
    """A FlatBuffer, read by place: the fields of a table are found by its list of offsets."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.root = self.at(0, "<I")

    def at(self, place: int, kind: str) -> int:
        if place < 0:
            raise ValueError("a message's head points out of it")
        return int(struct.unpack_from(kind, self.data, place)[0])

    def number(self, table: int, field: int, kind: str) -> int:
        """A field of a table, 0 where it is not said."""
        place = self._place(table, field)
        return self.at(place, kind) if place else 0

    def table(self, table: int, field: int) -> int:
        """Where the table or list begins that a field points to, 0 where it is not said."""
        place = self._place(table, field)
        return place + self.at(place, "<I") if place else 0

    def _place(self, table: int, field: int) -> int:
        offsets = table - self.at(table, "<i")
        entry = 4 + 2 * field
        if entry >= self.at(offsets, "<H"):
            return 0
        found = self.at(offsets + entry, "<H")
        return table + found if found else 0
