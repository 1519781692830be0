"""A batch of decoded events, column by column: what the kernel folds and joins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernel.decimals import decimal_type

# What a column may be: one of `ARROW_TYPES`, or a decimal such as `decimal(12, 2)`.
DataType = str
# What a feature may be: one value, `list<int64>`, or `map<string, int64>`.
ValueType = str
Array = npt.NDArray[Any]

ARROW_TYPES: dict[DataType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def arrow_type(kind: ValueType) -> pa.DataType:
    """The Arrow type of a feature."""
    if kind.startswith("list<"):
        return pa.list_(arrow_type(kind[5:-1]))
    if kind.startswith("map<"):
        key, value = kind[4:-1].rsplit(", ", 1)
        return pa.map_(arrow_type(key), arrow_type(value))
    decimals = decimal_type(kind)
    return ARROW_TYPES[kind] if decimals is None else decimals.arrow


def is_single(kind: ValueType) -> bool:
    """Whether a feature is one value, and no list or map."""
    return not kind.startswith(("list<", "map<"))


def family(kind: DataType) -> str:
    """What the catalogue calls a type: decimals of all lengths are one."""
    return kind if decimal_type(kind) is None else "decimal"


# Where one record holds many events, they share its offset. What decides ties is then the offset and the place in the
# record as one number, so that a row keeps what it always kept.
PLACES_MAX = 1 << 20
BATCHED_OFFSETS_MAX = 1 << 43


def in_records(offset: npt.NDArray[np.int64], position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """What `Events.offset` is for events of such records: in order of offset, then of place in the record."""
    assert int(offset.max(initial=0)) < BATCHED_OFFSETS_MAX, "the engine refuses such an offset"
    return offset * PLACES_MAX + position


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one column; where `valid` is false the value is null and its slot means nothing.

    values  float64, int64 (integers, time stamps, decimals in units of their last digit), bool, or object (strings as
            UTF-8 `bytes`)
    """

    values: Array
    valid: npt.NDArray[np.bool_] | None = None

    def take(self, index: npt.NDArray[np.int64]) -> Column:
        return Column(self.values[index], None if self.valid is None else self.valid[index])


@dataclass(frozen=True, slots=True)
class Events:
    """n events of one topic.

    row        (n) dense index of the entity that the event is about
    event_us   (n) effective event time
    partition  (n) and offset (n): where the log keeps it; with event time they decide ties
    columns    the columns that a plan needs
    """

    row: npt.NDArray[np.int64]
    event_us: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: npt.NDArray[np.int64]) -> Events:
        return Events(
            self.row[index],
            self.event_us[index],
            self.partition[index],
            self.offset[index],
            {name: column.take(index) for name, column in self.columns.items()},
        )

    def sorted(self) -> Events:
        """By entity, then event time, partition and offset: the order that decides first and last."""
        from featurestore.kernel.loops.ranges import in_order

        if in_order(*(np.ascontiguousarray(each) for each in (self.row, self.event_us, self.partition, self.offset))):
            return self
        return self.take(np.lexsort((self.offset, self.partition, self.event_us, self.row)))
