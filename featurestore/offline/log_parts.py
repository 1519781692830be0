"""Parts of an event log that are bounded by their bytes, whatever the events hold and whatever the files look like.

A dataset decodes a row group whole, and one that was compacted may hold gigabytes of texts. Here files are decoded some
rows at a time, and what turns out to be too much is let go before it is held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    # With it comes pandas, where that is installed: a third of the time of a command that reads no log.
    import pyarrow.dataset as pds

# Rows that are decoded at once where texts may be of any size; of numbers, and of small row groups, many.
_TEXTS, _NUMBERS = 128, 1 << 16
# Decoded rows are put together up to so many bytes before the wanted ones are looked for, which has a price a time.
_SIFTED_BYTES = 4 << 20
# Encodings by which no text becomes larger when it is decoded.
_SAID_IN_FULL = frozenset(("PLAIN", "RLE", "DELTA_BINARY_PACKED"))
# Column -> the names under which events of before have it, nearest first.
Former = Mapping[str, Sequence[str]]
_NONE: Former = MappingProxyType({})
# Of what is allowed, the part that is aimed at: events differ in size, and one that does not fit is read twice.
_AIMED_AT = 0.75


class Stride:
    """How many offsets to read on so that what they hold stays within some bytes; learnt from what was read last."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._offsets: int | None = None

    def read(
        self, first: int, end: int, held: Callable[[int, int, int | None], pa.Table | None]
    ) -> tuple[pa.Table, int]:
        """What the first of some offsets hold, and the offset up to which these go; one offset is the least.

        held  first, end, bytes -> what lies there, None where it is more than so many bytes
        """
        stop = end if self._offsets is None else min(end, first + self._offsets)
        while (table := held(first, stop, self._bytes_max if stop - first > 1 else None)) is None:
            stop = first + (stop - first) // 2
        # Where nothing is, there may be nothing for billions of offsets.
        aimed_at = _AIMED_AT * self._bytes_max * (stop - first)
        self._offsets = max(1, int(aimed_at / table.nbytes)) if table.nbytes else None
        return table, stop


def held_within(
    dataset: pds.Dataset,
    schema: pa.Schema,
    wanted: pc.Expression,
    bytes_max: int | None,
    days: pc.Expression | None = None,
    former: Former = _NONE,
) -> pa.Table | None:
    """Some columns of the events that are wanted, in any order; None where they are more than so many bytes.

    schema  the columns; see `as_columns`
    wanted  names columns of these, or `partition`, `offset` and `effective_us`
    days    of which dates events are wanted at all
    """
    parts, size = [schema.empty_table()], 0
    for piece in pieces(dataset, schema, wanted, days, former):
        size += piece.nbytes
        if bytes_max is not None and size > bytes_max:
            return None
        parts.append(piece)
    return pa.concat_tables(parts)


def pieces(
    dataset: pds.Dataset,
    schema: pa.Schema,
    wanted: pc.Expression | None = None,
    days: pc.Expression | None = None,
    former: Former = _NONE,
) -> Iterator[pa.Table]:
    """Some columns of the events that are wanted, a few megabytes or 128 rows at a time; see `held_within`."""
    pruned = wanted if wanted is None or days is None else wanted & days
    for fragment in dataset.get_fragments(pruned):
        part = fragment if pruned is None else fragment.subset(filter=pruned, schema=dataset.schema)
        groups = [group.id for group in part.row_groups]
        if not groups:
            continue
        with part.open() as opened:
            for table in _sifted(_decoded(pq.ParquetFile(opened), groups, schema, wanted, former), wanted):
                yield as_columns(table, schema, former)


def names_of(schema: pa.Schema, former: Former, there: Collection[str]) -> list[str]:
    """Those columns of a file that are needed for the columns of a schema."""
    return [name for each in schema.names for name in (each, *former.get(each, ())) if name in there]


def as_columns(table: pa.Table, schema: pa.Schema, former: Former) -> pa.Table:
    """The columns of a schema, in its order and of its types, of a file's columns.

    An event has a column under its name or under a former one, whatever the definition was when it came. Where it has
    none, or one of a type that is not read as this one, there is a null.
    """
    columns = [_column(table, field, former.get(field.name, ())) for field in schema]
    return pa.table(columns, schema=schema)


def is_read_as(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a former column of a type is read as one of another: as the formats do, whole numbers are floats."""
    return bool(kind == wanted or (pa.types.is_int64(kind) and pa.types.is_float64(wanted)))


def _column(table: pa.Table, field: pa.Field, former: Sequence[str]) -> pa.Array | pa.ChunkedArray:
    found = [table[field.name].cast(field.type)] if field.name in table.column_names else []
    for name in former:
        if name in table.column_names and is_read_as(table[name].type, field.type):
            # Not safely: of a whole number that no float equals it is the nearest one.
            found.append(table[name].cast(field.type, safe=False))
    if not found:
        return pa.nulls(len(table), field.type)
    return found[0] if len(found) == 1 else pc.coalesce(*found)


def _decoded(
    file: pq.ParquetFile, groups: Sequence[int], schema: pa.Schema, wanted: pc.Expression | None, former: Former
) -> Iterator[pa.RecordBatch]:
    needed = [] if wanted is None else ["partition", "offset", "effective_us"]
    there = file.schema_arrow.names
    names = list(dict.fromkeys([*(name for name in needed if name in there), *names_of(schema, former, there)]))
    if not names:
        # Not one of the columns is in this file, but its events are.
        names = ["offset"]
    # Threads would decode ahead.
    yield from file.iter_batches(_rows_at_once(file, groups, names), groups, names, use_threads=False)


def _rows_at_once(file: pq.ParquetFile, groups: Sequence[int], names: Sequence[str]) -> int:
    if all(_is_fixed(file.schema_arrow.field(name).type) for name in names):
        return _NUMBERS
    size = 0
    for group in groups:
        told = file.metadata.row_group(group)
        for column in map(told.column, range(told.num_columns)):
            if any(column.path_in_schema == name or column.path_in_schema.startswith(f"{name}.") for name in names):
                size += column.total_uncompressed_size
                # Others may say a text of megabytes once, for a million rows.
                if size > _SIFTED_BYTES or not _SAID_IN_FULL.issuperset(column.encodings):
                    return _TEXTS
    return _NUMBERS


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _sifted(batches: Iterator[pa.RecordBatch], wanted: pc.Expression | None) -> Iterator[pa.Table]:
    some: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        some.append(batch)
        size += batch.nbytes
        if size >= _SIFTED_BYTES:
            yield _chosen(some, wanted)
            some, size = [], 0
    if some:
        yield _chosen(some, wanted)


def _chosen(batches: list[pa.RecordBatch], wanted: pc.Expression | None) -> pa.Table:
    table = pa.Table.from_batches(batches)
    return table if wanted is None else table.filter(wanted)
