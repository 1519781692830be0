"""Entity keys as canonical bytes: the same key is the same bytes in every process, and no two keys are."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import WrongTypeError
from featurestore.kernel.pieces import Pieces

_INT64 = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Grouped:
    """n rows by their keys.

    keys    the distinct ones
    spread  crc32 of each: `spread % buckets` is its bucket
    row     (n) which of the keys each row has
    """

    keys: Pieces
    spread: npt.NDArray[np.uint32]
    row: npt.NDArray[np.int64]

    def take(self, index: npt.NDArray[np.int64]) -> Grouped:
        """Some of the rows, and the keys that these have."""
        used, row = np.unique(self.row[index], return_inverse=True)
        return Grouped(self.keys.take(used), self.spread[used], row.reshape(-1))

    def by_bucket(self, buckets: int) -> tuple[Grouped, npt.NDArray[np.int64]]:
        """The same with the keys in the order of their buckets; and the bucket of each key."""
        bucket = (self.spread % np.uint32(buckets)).astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return Grouped(self.keys.take(order), self.spread[order], rank[self.row]), bucket[order]


def encode_keys(columns: Sequence[pa.Array]) -> list[bytes]:
    """One key a row: each part as a type tag, its length, and its bytes. Raises WrongTypeError on a null.

    columns  one Arrow array of n values a key column: string, int64, bool or timestamp[us]
    """
    parts = [_parts(column) for column in columns]
    if len(parts) == 1:
        return parts[0]
    return [b"".join(row) for row in zip(*parts, strict=True)]


def group_keys(columns: Sequence[pa.Array]) -> Grouped:
    """The distinct keys of n rows, and which of them each row has. Raises WrongTypeError on a null.

    columns  as for `encode_keys`
    """
    for column in columns:
        _refuse_null(column)
    coded = [column.dictionary_encode() for column in columns]
    codes = coded[0].indices.to_numpy(zero_copy_only=False).astype(np.int64)
    if len(columns) == 1:
        return Grouped(*_keys_of([coded[0].dictionary]), codes)
    for each in coded[1:]:
        # Pairs of codes become codes again, so that the numbers stay small.
        both = codes * len(each.dictionary) + each.indices.to_numpy(zero_copy_only=False)
        codes = np.unique(both, return_inverse=True)[1].reshape(-1)
    _, first = np.unique(codes, return_index=True)
    return Grouped(*_keys_of([column.take(pa.array(first)) for column in columns]), codes)


def _keys_of(columns: Sequence[pa.Array]) -> tuple[Pieces, npt.NDArray[np.uint32]]:
    """`encode_keys`, and the checksum of each key."""
    [first, *others] = columns
    if others or not pa.types.is_string(first.type):
        keys = encode_keys(columns)
        return Pieces.of(keys), np.array([crc32(key) for key in keys], dtype=np.uint32)
    from featurestore.kernel.loops.keys import HEAD_BYTES, string_keys

    _, offsets, data = first.buffers()
    begin = np.frombuffer(offsets, dtype=np.int32)[first.offset : first.offset + len(first) + 1] if len(first) else None
    if begin is None:
        return Pieces.of([]), np.zeros(0, dtype=np.uint32)
    texts = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    ends = begin.astype(np.int64) - int(begin[0]) + HEAD_BYTES * np.arange(len(begin))
    out, spread = np.empty(ends[-1], dtype=np.uint8), np.empty(len(first), dtype=np.uint32)
    string_keys(texts, begin, out, spread)
    return Pieces(out, ends), spread


def hash64(key: bytes) -> int:
    """A stable hash that nobody can steer: it decides which values a distinct count keeps, so it may never change."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")


def bucket_of(key: bytes, buckets: int) -> int:
    """Which bucket a key lies in; it may never change. Only spread matters here, so it is the cheapest that spreads."""
    return crc32(key) % buckets


def _parts(column: pa.Array) -> list[bytes]:
    _refuse_null(column)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = [text.encode() for text in column.to_pylist()]
        return [b"s" + len(text).to_bytes(4, "little") + text for text in texts]
    if pa.types.is_boolean(kind):
        return [b"b\x01\x00\x00\x00" + (b"\x01" if truth else b"\x00") for truth in column.to_pylist()]
    if pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
        tag = b"t" if pa.types.is_timestamp(kind) else b"i"
        whole = column.cast(pa.timestamp("us", tz="UTC")) if pa.types.is_timestamp(kind) else column
        return [tag + b"\x08\x00\x00\x00" + _INT64.pack(value) for value in whole.cast(pa.int64()).to_pylist()]
    raise WrongTypeError("entity key", "a string, integer, bool or time stamp", kind)


def _refuse_null(column: pa.Array) -> None:
    if column.null_count:
        raise WrongTypeError("entity key", "a value", None)
