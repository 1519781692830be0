"""Plain JSON records of one topic as Arrow arrays, read by a compiled loop: no Python object is made a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernel import ARROW_TYPES, DataType
from featurestore.spec import Topic
from streams.codecs import json_loop
from streams.codecs.json_words import Words
from streams.codecs.rejections import NONE_REJECTED, Rejections
from streams.gather import gather
from streams.payloads import ABSENT, Payloads

_KINDS: dict[DataType, int] = {
    "string": json_loop.STRING,
    "int64": json_loop.INTEGER,
    "timestamp": json_loop.MOMENT,
    "float64": json_loop.FLOAT,
    "bool": json_loop.TRUTH,
}
# The loop keeps what it has seen of a record in the bits of one int64.
_FIELDS_MAX = 62
# A batch is bounded in bytes far below this (see the transport); Arrow counts the bytes of an array's strings in int32.
_BYTES_MAX = 2**31 - 1

Ints = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]
_NOWHERE = np.zeros(0, dtype=np.int64)


def reader(topic: Topic, ask: Callable[[Sequence[bytes]], Rejections]) -> ColumnReader | None:
    """For topics that the loop can read; None where one has more fields than that, or decimals.

    ask  what msgspec says of those records that it does not take
    """
    can = len(topic.schema) <= _FIELDS_MAX and set(topic.schema.values()) <= set(_KINDS)
    return ColumnReader(topic, ask) if can else None


@dataclass(frozen=True, slots=True)
class Read:
    """What became of n records: three parts of them, each rising by their places in the batch.

    index, arrays  those that were read, and their columns
    rejected       those that keep no contract for sure
    unsure         places of all others
    """

    index: Ints
    arrays: Mapping[str, pa.Array]
    rejected: Rejections
    unsure: Ints


class ColumnReader:
    """Reads the plain ones among the records of a topic."""

    def __init__(self, topic: Topic, ask: Callable[[Sequence[bytes]], Rejections]) -> None:
        self._words = Words(topic, ask)
        names = [name.encode() for name in topic.schema]
        self._schema = dict(topic.schema)
        self._names = np.frombuffer(b"".join(names), dtype=np.uint8)
        self._name_at = _ends(np.array([len(name) for name in names], dtype=np.int64))
        self._kinds = np.array([_KINDS[dtype] for dtype in topic.schema.values()], dtype=np.int64)
        self._nullable = np.array([name in topic.nullable for name in topic.schema], dtype=np.bool_)

    def read(self, payloads: Sequence[bytes | None]) -> Read:
        """Read the records that are plain."""
        records = Payloads.of(payloads)
        assert records.size_bytes <= _BYTES_MAX
        data = records.data
        shape = len(self._kinds), len(records)
        start, length, whole = (np.empty(shape, dtype=np.int64) for _ in range(3))
        real, state, good = np.empty(shape), np.empty(shape, dtype=np.uint8), np.empty(len(records), dtype=np.bool_)
        fault, where = np.empty(len(records), dtype=np.int64), np.zeros(len(records), dtype=np.int64)
        json_loop.read_objects(
            data,
            records.starts,
            records.ends,
            self._names,
            self._name_at,
            self._kinds,
            self._nullable,
            start,
            length,
            whole,
            real,
            state,
            good,
            fault,
            where,
        )
        # To the loop a record without a value is one without bytes.
        fault[records.lengths == ABSENT] = json_loop.UNSURE
        self._read_texts(data.data, start, length, real, state, good)
        index = np.flatnonzero(good)
        arrays = {}
        for field, (name, dtype) in enumerate(self._schema.items()):
            known = _some(state[field], index) != json_loop.NOTHING
            valid = None if known.all() else known
            if dtype == "string":
                arrays[name] = _strings(data, _some(start[field], index), _some(length[field], index), valid)
            else:
                numbers = _some(real[field] if dtype == "float64" else whole[field], index)
                arrays[name] = _numbers(numbers, dtype, valid)
        if len(index) == len(records):
            return Read(index, arrays, NONE_REJECTED, _NOWHERE)
        bad = np.flatnonzero(~good)
        return Read(index, arrays, *self._words.of(bad, fault[bad], where[bad]))

    def _read_texts(self, raw: memoryview, start: Ints, length: Ints, real: Any, state: Any, good: Truths) -> None:
        """Floats of many digits are read by Python, which rounds them correctly."""
        for field in np.flatnonzero(self._kinds == json_loop.FLOAT).tolist():
            texts = np.flatnonzero(good & (state[field] == json_loop.TEXT))
            first, size = start[field][texts].tolist(), length[field][texts].tolist()
            real[field][texts] = [float(raw[at : at + many]) for at, many in zip(first, size, strict=True)]
            # What no float64 holds is for others to refuse.
            good[texts] &= np.isfinite(real[field][texts])


def _ends(sizes: Ints) -> Ints:
    """Where parts of these sizes begin and end: 0 first."""
    ends = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=ends[1:])
    return ends


def _some(values: Any, index: Ints) -> Any:
    return values if len(index) == len(values) else values[index]


def _strings(data: npt.NDArray[np.uint8], start: Ints, length: Ints, valid: Truths | None) -> pa.Array:
    if valid is not None:
        length = np.where(valid, length, 0)
    offsets = _ends(length).astype(np.int32)
    out = np.empty(offsets[-1], dtype=np.uint8)
    gather(data, start, length, out)
    return pa.Array.from_buffers(pa.string(), len(start), [_bits(valid), pa.py_buffer(offsets), pa.py_buffer(out)])


def _numbers(numbers: Any, dtype: DataType, valid: Truths | None) -> pa.Array:
    if dtype == "bool":
        return pa.array(numbers != 0, pa.bool_(), mask=None if valid is None else ~valid)
    held = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(ARROW_TYPES[dtype], len(numbers), [_bits(valid), held])


def _bits(valid: Truths | None) -> pa.Buffer | None:
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
