"""Polars expressions as values: what `where=`, added columns and derived features are made of.

Enter: an expression that an author wrote. Leave: a value compared by what it says, and its columns. Promise: each row
is computed from that row alone, with nothing drawn, so a batch, a tile and a training set cannot give it different
values. A result that is NaN or infinite, or a moment that no calendar of the clients can write, is null: there is no
such feature value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.errors import DefinitionError, UnknownColumnError
from featurestore.kernel.decimals import DecimalType, decimal_array, decimal_type, wholes_in, words_of
from featurestore.kernel.events import ARROW_TYPES, Column, DataType, ValueType, arrow_type

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Expression:
    """A checked Polars expression; `said` is its serialized form, and decides equality."""

    said: str
    columns: tuple[str, ...]
    dtype: DataType

    @cached_property
    def digest(self) -> str:
        return blake2b(self.said.encode(), digest_size=4).hexdigest()

    @cached_property
    def polars(self) -> pl.Expr:
        import polars as pl

        return pl.Expr.deserialize(self.said.encode(), format="json")

    def __str__(self) -> str:
        return str(self.polars)


def said(owner: str, written: object) -> str:
    """What the author's expression says, as text; raises DefinitionError."""
    import polars as pl

    if not isinstance(written, pl.Expr):
        raise DefinitionError(f"{owner} is {written!r}; write a Polars expression such as pl.col('amount') > 0")
    text = written.meta.serialize(format="json")
    # A Python function has no text to compare, and would be unpickled to run.
    if "AnonymousFunction" in text or "Python" in text:
        raise DefinitionError(f"{owner}, {written}, holds a Python function; use Polars' own functions")
    return text


def shown(text: str) -> str:
    """What `said` gave, as people read it."""
    import polars as pl

    return str(pl.Expr.deserialize(text.encode(), format="json"))


def expression(owner: str, text: str, types: Mapping[str, ValueType]) -> Expression:
    """What `said` gave, checked over columns of these types; raises DefinitionError, UnknownColumnError."""
    import polars as pl

    written = pl.Expr.deserialize(text.encode(), format="json")
    columns = tuple(dict.fromkeys(written.meta.root_names()))
    for column in columns:
        if column not in types:
            raise UnknownColumnError(owner, column, types)
    alone = f"{owner}, {written}, must give one value a row from that row alone"
    if not columns or not _every_part_row_by_row(written):
        raise DefinitionError(f"{alone}; leave out aggregates, shifts, sorts and patterns of names")
    whole = next(_reads_a_whole_column(written), None)
    if whole is not None:
        raise DefinitionError(
            f"{alone}, but what {whole} looks in is a whole column; give it constants, or use list.contains of a list"
        )
    words = _keys(json.loads(text))
    for word, why in _UNSTEADY.items():
        if word in words:
            raise DefinitionError(
                f"{owner}, {written}, {why}, but a value is the same whenever it is computed; leave it out"
            )
    if "Categorical" in words:
        # Its numbers are given in the order in which a process has seen the texts.
        raise DefinitionError(f"{owner}, {written}, numbers categories as they come; use pl.Enum with fixed ones")
    empty = {column: _series(pa.array([], arrow_type(types[column]))) for column in columns}
    try:
        result = pl.DataFrame(empty).select(written.alias("it")).schema["it"]
    except pl.exceptions.PolarsError as error:
        raise DefinitionError(f"{owner}, {written}, cannot be computed: {error}") from error
    found = Expression(text, columns, _data_type(owner, result))
    if _mixes_rows(found, types):
        raise DefinitionError(f"{alone}, but its rows look at each other")
    return found


def evaluate(expressions: Mapping[str, Expression], columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Each expression's values; null where they are null, NaN, infinite or outside the years 1 to 9999, or where a row
    cannot be computed.

    columns  (n) values a name, for all that the expressions read
    """
    import polars as pl

    needed = {name for each in expressions.values() for name in each.columns}
    frame = pl.DataFrame({name: _series(columns[name]) for name in sorted(needed)})
    return {name: _evaluated(each, frame) for name, each in expressions.items()}


def _evaluated(asked: Expression, frame: pl.DataFrame) -> pa.Array:
    import polars as pl

    kind = arrow_type(asked.dtype)
    # Polars takes a single row for a constant, and divides it by a number, where it multiplies several rows by the
    # reciprocal. Those are other bits, so no row is alone.
    rows = frame if len(frame) != 1 else pl.DataFrame([pl.concat([one, one], rechunk=True) for one in frame])
    try:
        result = rows.select(asked.polars.alias("it"))["it"][: len(frame)]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        # What came in a row, such as text that is no number, may not take the others with it.
        if len(frame) <= 1:
            return pa.nulls(len(frame), kind)
        half = len(frame) // 2
        return pa.concat_arrays([_evaluated(asked, frame[:half]), _evaluated(asked, frame[half:])])
    if result.dtype.is_integer():
        result = result.cast(pl.Int64, strict=False)
    if isinstance(result.dtype, pl.Datetime):
        # Arrow would refuse the whole batch for one nanosecond.
        result = _in_calendar(result).dt.cast_time_unit("us")
    array = result.to_arrow().cast(kind)
    if asked.dtype == "float64":
        held = array.to_numpy(zero_copy_only=False)
        array = pa.array(held, kind, mask=~np.isfinite(held))
    return array


# Seconds from 1970 to the first day of year 1, and to the day after the last one of year 9999.
_YEAR_1_S, _YEAR_10000_S = -62_135_596_800, 253_402_300_800
# Units a second; int64 nanoseconds end in 2262.
_UNITS = {"ms": 1_000, "us": 1_000_000}


def _in_calendar(moments: pl.Series) -> pl.Series:
    """The same moments, null outside the years 1 to 9999: Python, JSON and many databases have no others.

    Looked at in their own unit: milliseconds that are far enough overflow as microseconds, into other years.
    """
    import polars as pl

    units = _UNITS.get(moments.dtype.time_unit)  # type: ignore[attr-defined]  # a Datetime has one
    if units is None:
        return moments
    counted = moments.to_physical()
    inside = (counted >= _YEAR_1_S * units) & (counted < _YEAR_10000_S * units)
    return pl.select(pl.when(inside).then(moments)).to_series()


def _every_part_row_by_row(written: pl.Expr) -> bool:
    import polars as pl

    # Polars answers for the outermost operation, so every part is asked.
    meta = written.meta
    try:
        alone = meta.is_literal(allow_aliasing=True) or (
            meta.is_row_separable() and meta.is_length_preserving() and not meta.is_scalar()
        )
    except pl.exceptions.PolarsError:
        # Of some, such as `index_of`, it cannot tell before it has values.
        return False
    return alone and not meta.has_multiple_outputs() and all(_every_part_row_by_row(part) for part in meta.pop())


# They look at one row, but do not always give the same for it.
_UNSTEADY = {"Sample": "draws at random", "Hash": "gives other numbers in another version of Polars"}
# Polars calls these separable, and they are in their first input; the next one or two they read as sets, from top to
# bottom. A fourth is a default, row by row.
_SETS = frozenset({"IsIn", "Replace", "ReplaceStrict", "ContainsAny", "ReplaceMany", "ExtractMany", "FindMany"})


def _reads_a_whole_column(written: pl.Expr) -> Iterator[str]:
    """Of the parts that do, what they do."""
    said = json.loads(written.meta.serialize(format="json"))
    inputs = written.meta.pop()
    function = _keys(said["Function"]["function"]) & _SETS if isinstance(said, dict) and "Function" in said else ()
    # The first input is popped last.
    if function and any(each.meta.root_names() for each in inputs[::-1][1:3]):
        yield min(function)
    for each in inputs:
        yield from _reads_a_whole_column(each)


def _keys(node: Any) -> set[str]:
    """The names of all members in a JSON value; of a text, the text."""
    if isinstance(node, str):
        return {node}
    members = list(node.items()) if isinstance(node, dict) else [("", each) for each in node]
    deeper = [_keys(inner) for _, inner in members if isinstance(inner, dict | list)]
    return {name for name, _ in members}.union(*deeper)


def _mixes_rows(asked: Expression, types: Mapping[str, ValueType]) -> bool:
    """Whether rows together give other values than rows alone; each column is turned by another number of places."""
    columns = {}
    for turn, name in enumerate(asked.columns):
        values = _probes(types[name])
        columns[name] = pa.concat_arrays([values[turn % 3 :], values[: turn % 3]])
    together = evaluate({"it": asked}, columns)["it"]
    alone = [evaluate({"it": asked}, {name: each[row : row + 1] for name, each in columns.items()}) for row in range(3)]
    return bool(
        len(together) != 3 or together.to_pylist() != [value for each in alone for value in each["it"].to_pylist()]
    )


_PROBES: dict[DataType, list[Any]] = {
    "string": ["b", "a", "c"],
    "int64": [3, 1, 2],
    "float64": [3.5, 1.25, 2.0],
    "bool": [True, False, True],
    "timestamp": [86_400_000_000, 0, 1],
}


def _probes(dtype: ValueType) -> pa.Array:
    """Three values of a type, all different."""
    if dtype.startswith("list<"):
        inner = _probes(dtype[5:-1])
        return pa.ListArray.from_arrays(pa.array([0, 1, 1, 3], pa.int32()), inner)
    if dtype.startswith("map<"):
        keys, items = (_probes(each) for each in dtype[4:-1].rsplit(", ", 1))
        return pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), keys, items)
    decimals = decimal_type(dtype)
    if decimals is None:
        return pa.array(_PROBES[dtype], ARROW_TYPES[dtype])
    return decimal_array(words_of(np.array([3, 1, 2])), None, decimals)


def to_arrow(column: Column, dtype: DataType) -> pa.Array:
    """A kernel column as an Arrow array."""
    nulls = None if column.valid is None else ~column.valid
    decimals = decimal_type(dtype)
    if decimals is not None:
        return decimal_array(words_of(column.values), column.valid, decimals)
    if dtype == "string":
        return pa.array(column.values, pa.binary(), mask=nulls).cast(pa.string())
    if dtype == "timestamp":
        return pa.array(column.values, pa.int64(), mask=nulls).cast(ARROW_TYPES[dtype])
    return pa.array(column.values, ARROW_TYPES[dtype], mask=nulls)


def from_arrow(array: pa.Array, dtype: DataType) -> Column:
    """An Arrow array as a kernel column; of decimals those of more than 18 digits are null."""
    if decimal_type(dtype) is not None:
        wholes, fits = wholes_in(array)
        return Column(wholes, None if fits.all() else fits)
    valid = None if not array.null_count else np.asarray(array.is_valid())
    if dtype == "string":
        texts = np.empty(len(array), dtype=object)
        texts[:] = array.cast(pa.binary()).to_pylist()
        return Column(texts, valid)
    if dtype == "timestamp":
        array = array.cast(pa.int64())
    empty = pa.scalar(False if dtype == "bool" else 0, array.type)
    return Column(array.fill_null(empty).to_numpy(zero_copy_only=False), valid)


def _series(array: pa.Array) -> Any:
    import polars as pl

    return pl.Series(pl.from_arrow(array))


def _data_type(owner: str, result: Any) -> DataType:
    import polars as pl

    if result == pl.Boolean:
        return "bool"
    if result.is_integer():
        return "int64"
    if result.is_float():
        return "float64"
    if result == pl.String:
        return "string"
    if isinstance(result, pl.Datetime):
        return "timestamp"
    if isinstance(result, pl.Decimal):
        return DecimalType(result.precision, result.scale).text
    raise DefinitionError(f"{owner} gives {result}; cast it to a number, a string, a bool or a Datetime")
