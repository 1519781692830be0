"""Values as bytes, for partials that keep the values themselves."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from featurestore.kernel.aggregates.partial import Array
from featurestore.kernel.decimals import decimal_type
from featurestore.kernel.events import Column, DataType, family

_NUMBER: dict[DataType, struct.Struct] = {
    "int64": struct.Struct("<q"),
    "timestamp": struct.Struct("<q"),
    "float64": struct.Struct("<d"),
    "bool": struct.Struct("<?"),
    "decimal": struct.Struct("<q"),
}


def value_bytes(dtype: DataType) -> int:
    """Bytes of one value; 0 of a text, whose length is its own."""
    return 0 if dtype == "string" else _NUMBER[family(dtype)].size


def packed(column: Column, dtype: DataType, *, one_zero: bool) -> list[bytes | None]:
    """Each value as bytes, None where it is null.

    one_zero  whether -0.0 is written as 0.0: where equal values must be equal bytes
    """
    values = column.values
    if dtype == "string":
        out: list[bytes | None] = list(values)
    else:
        if dtype == "float64":
            values = values.astype(np.float64) + 0.0 if one_zero else values.astype(np.float64)
        pack = _NUMBER[family(dtype)].pack
        out = [pack(value) for value in values.tolist()]
    if column.valid is not None:
        for place in np.flatnonzero(~column.valid).tolist():
            out[place] = None
    return out


def unpacker(dtype: DataType) -> Callable[[bytes], Any]:
    """Bytes -> the Python value."""
    if dtype == "string":
        return bytes.decode
    unpack, decimals = _NUMBER[family(dtype)].unpack, decimal_type(dtype)
    if decimals is not None:
        return lambda raw: decimals.value_of(unpack(raw)[0])
    return lambda raw: unpack(raw)[0]


def listed(values: list[Any]) -> Array:
    """The same for lists of one length, which NumPy would take for a second axis."""
    out = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        out[place] = value
    return out
