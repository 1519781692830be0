"""Values as a format's library gives them -> Arrow columns of the contract; what is not of the type is told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.event_time import MOMENT_MAX_US, moment_us
from featurestore.kernel import ARROW_TYPES, DataType
from featurestore.spec import Topic
from streams.codecs.codec import Decoded, Ints, without
from streams.codecs.rejections import Rejected, Rejections

_NONE = type(None)
# Widening as Avro has it: a whole number may stand for a float. A bool is never a number.
_TAKEN: dict[DataType, frozenset[type]] = {
    "string": frozenset((str, _NONE)),
    "int64": frozenset((int, _NONE)),
    "float64": frozenset((float, int, _NONE)),
    "bool": frozenset((bool, _NONE)),
    "timestamp": frozenset((int, _NONE)),
}


def decoded_of(
    topic: Topic, index: Sequence[int], columns: Mapping[str, Sequence[Any]], rejected: Sequence[Rejected]
) -> Decoded:
    """A batch from plain values, a list a column, None where there is none; time stamps are microseconds."""
    reasons: dict[int, tuple[str, str]] = {}
    arrays = {}
    for name, dtype in topic.schema.items():
        values = columns[name]
        wrong = _wrong(values, dtype)
        for place in wrong:
            reasons.setdefault(place, ("wrong_type", _said(name, values[place], dtype)))
        if wrong:
            values = list(values)
            for place in wrong:
                values[place] = None
        arrays[name] = _array(values, dtype)
        for place in np.flatnonzero(not_numbers(arrays[name])).tolist():
            reasons.setdefault(place, ("wrong_type", f"{values[place]} is no number - at `$.{name}`"))
        if name not in topic.nullable and arrays[name].null_count:
            for place in np.flatnonzero(np.asarray(arrays[name].is_null())).tolist():
                reasons.setdefault(place, ("missing_field", f"no value - at `$.{name}`"))
    decoded = Decoded(np.array(index, dtype=np.int64), arrays, Rejections.of(rejected))
    return without(decoded, reasons)


def outside_time(moments_us: Ints) -> np.ndarray:
    """Which moments are before 1970 or after the year 9999."""
    return np.asarray((moments_us < 0) | (moments_us > MOMENT_MAX_US))


def outside_said(moment_us: int) -> str:
    """What is said of such a moment."""
    return "a moment before 1970" if moment_us < 0 else "a moment after the year 9999"


def not_numbers(array: pa.Array) -> np.ndarray:
    """Where a column of floats is NaN or infinite: such an event has no place in a sum, whatever format can say it."""
    if not pa.types.is_float64(array.type):
        return np.zeros(len(array), dtype=np.bool_)
    return ~np.asarray(pc.is_finite(array).fill_null(True), dtype=np.bool_)


def microseconds(value: Any) -> Any:
    """A time stamp of a checked event, however its author said it."""
    return value if value is None or isinstance(value, int) else moment_us(value)


def _wrong(values: Sequence[Any], dtype: DataType) -> list[int]:
    taken = _TAKEN[dtype]
    is_whole = dtype in ("int64", "timestamp")
    if set(map(type, values)) <= taken:
        if not is_whole:
            return []
        low, high = (0, MOMENT_MAX_US) if dtype == "timestamp" else (-(2**63), 2**63 - 1)
        numbers = [value for value in values if value is not None]
        if not numbers or (low <= min(numbers) and max(numbers) <= high):
            return []
        return [place for place, value in enumerate(values) if value is not None and not low <= value <= high]
    wrong = [place for place, value in enumerate(values) if type(value) not in taken]
    rest = [None if type(value) not in taken else value for value in values]
    return sorted({*wrong, *_wrong(rest, dtype)})


def _said(name: str, value: object, dtype: DataType) -> str:
    if dtype == "timestamp" and type(value) is int:
        said = outside_said(value)
    elif dtype == "int64" and type(value) is int:
        said = f"{value} is beyond int64"
    else:
        said = f"expected {dtype}, got {type(value).__name__}"
    return f"{said} - at `$.{name}`"


def _array(values: Sequence[Any], dtype: DataType) -> pa.Array:
    if dtype == "timestamp":
        return pa.array(values, pa.int64()).cast(ARROW_TYPES[dtype])
    if dtype == "float64" and int in set(map(type, values)):
        # Arrow refuses whole numbers that a float rounds; the contract takes the nearest float, as JSON does.
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, ARROW_TYPES[dtype])
