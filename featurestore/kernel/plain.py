"""Counts, sums, means, minima and maxima over many overlapping ranges of sorted events, finished where they are found.

They are most of what is asked for, so their loops write what Arrow holds, and leave no states to be finished. Promise:
the same bits as the aggregate's own `finish` over the same ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernel.aggregates.compiled import given
from featurestore.kernel.aggregates.partial import Array
from featurestore.kernel.aggregates.plain import Asked, asked
from featurestore.kernel.events import Column, DataType, Events, arrow_type
from featurestore.kernel.loops import ranges as loops
from featurestore.kernel.loops.rounding import FLOAT_UNIT
from featurestore.kernel.memory import room
from featurestore.kernel.plan import Output
from featurestore.kernel.windows import Window

Ints = npt.NDArray[np.int64]


def arrow_of(dtype: str, values: Array, nulls: pa.Buffer | None) -> pa.Array:
    """Numbers of 64 bits as they are."""
    return pa.Array.from_buffers(arrow_type(dtype), len(values), [nulls, pa.py_buffer(values)])


def nulls_of(valid: npt.NDArray[np.bool_]) -> pa.Buffer | None:
    """None where every value is there."""
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column as the loops take it: int64 (of floats the bits), which are there, and whether they are floats."""

    numbers: Ints
    valid: npt.NDArray[np.bool_]
    is_float: bool

    @classmethod
    def of(cls, column: Column, dtype: DataType) -> Numbers:
        is_float = dtype == "float64"
        numbers = np.ascontiguousarray(column.values, dtype=np.float64 if is_float else np.int64).view(np.int64)
        if column.valid is not None:
            return cls(numbers, np.ascontiguousarray(column.valid), is_float)
        valid = room(len(numbers), np.bool_)
        valid[:] = True
        return cls(numbers, valid, is_float)

    @property
    def unit(self) -> int:
        """Of sums, as a power of two."""
        return FLOAT_UNIT if self.is_float else 0

    @property
    def given(self) -> tuple[Ints, npt.NDArray[np.bool_], bool]:
        return self.numbers, self.valid, self.is_float

    def block_sums(self) -> Array | None:
        """Sums of all events before each block, in units; None where 128 bits might not hold them."""
        prefix = room(((len(self.numbers) >> loops.SUM_BITS) + 1, 2), np.uint64)
        return prefix if loops.block_sums(*self.given, prefix) else None

    def sums_before(self, prefix: Array, places: Ints) -> Array:
        """The sums of all events before each place."""
        sums: Array = room((len(places), 2), np.uint64)
        loops.sums_before(*self.given, prefix, places, sums)
        return sums

    def block_extremes(self) -> tuple[Ints, Ints]:
        """The least and the greatest key of stretches of blocks."""
        blocks = (len(self.numbers) + (1 << loops.BLOCK_BITS) - 1) >> loops.BLOCK_BITS
        least, most = room((2, max(1, blocks.bit_length()), blocks))
        loops.block_extremes(*self.given, least, most)
        return least, most

    def newest_extremes(self, high: Ints) -> tuple[Ints, Ints]:
        """The least and the greatest key from the block on in which each range ends."""
        least, most = room((2, len(high)))
        loops.newest_extremes(*self.given, high, least, most)
        return least, most


class PlainValues:
    """The plain outputs of a plan over ranges [low, high) of the sorted events, window by window."""

    def __init__(self, events: Events, outputs: Sequence[Output]) -> None:
        self._events = events
        self._asked = [(output, found) for output in outputs if (found := asked(output.aggregate)) is not None]
        # What is made of a column once, for all windows.
        self._counts: dict[str | None, Ints] = {}
        self._columns: dict[str, Numbers] = {}
        self._prefix: dict[str, Array | None] = {}
        self._blocks: dict[str, tuple[Ints, Ints]] = {}
        # What lies before the ends of ranges, which for most windows are the moments themselves: by the array of ends,
        # which is kept, so that no other one can have its identity.
        self._before: dict[tuple[str, int], tuple[Ints, Array]] = {}
        self._newest: dict[tuple[str, int], tuple[Ints, Ints, Ints]] = {}

    def shared(self, high: Ints) -> list[Callable[[], object]]:
        """What to call, in any order and at once, before windows whose ranges end at `high` are asked for at once."""
        work: dict[tuple[str, str], Callable[[], object]] = {}
        for output, found in self._asked:
            self._counted(found.counter, high[:0], high[:0])
            if found.value is not None:
                self._numbers(found)
                which = self._extremes_before if output.aggregate.plain in ("min", "max") else self._sums_before
                work[found.value, which.__name__] = partial(which, found, high)
        return list(work.values())

    def over(self, window: Window, low: Ints, high: Ints) -> dict[str, pa.Array]:
        """Output name -> values, of the window's plain outputs; without those whose sums have to be wider."""
        groups: dict[Asked, dict[str, str]] = {}
        for output, found in self._asked:
            if output.window == window:
                groups.setdefault(found, {})[output.name] = given(output.aggregate.plain)
        out: dict[str, pa.Array] = {}
        counts: dict[str | None, Ints] = {}
        for found, names in groups.items():
            if found.counter not in counts:
                counts[found.counter] = self._counted(found.counter, low, high)
            arrays = self._finished(found, set(names.values()), counts[found.counter], low, high)
            out.update({name: arrays[kind] for name, kind in names.items() if kind in arrays})
        return out

    def _finished(self, found: Asked, kinds: set[str], counts: Ints, low: Ints, high: Ints) -> dict[str, pa.Array]:
        if found.value is None:
            return {"count": arrow_of("int64", counts, None)}
        nulls = nulls_of(counts > 0)
        out = {}
        if kinds & {"min", "max"}:
            out.update(self._extremes(found, counts, nulls, low, high))
        if kinds & {"sum", "mean"}:
            out.update(self._sums(found, kinds, counts, nulls, low, high))
        return out

    def _extremes(
        self, found: Asked, counts: Ints, nulls: pa.Buffer | None, low: Ints, high: Ints
    ) -> dict[str, pa.Array]:
        least, most = (room(len(low)) for _ in range(2))
        edges = self._extremes_before(found, high)
        loops.extremes(*self._numbers(found).given, *edges, counts, low, high, least, most)
        return {"min": arrow_of(found.dtype, least, nulls), "max": arrow_of(found.dtype, most, nulls)}

    def _sums(
        self, found: Asked, kinds: set[str], counts: Ints, nulls: pa.Buffer | None, low: Ints, high: Ints
    ) -> dict[str, pa.Array]:
        column, given_ends = self._numbers(found), self._sums_before(found, high)
        if given_ends is None:
            return {}
        prefix, before = given_ends
        out = {}
        if "sum" in kinds and not column.is_float:
            whole, fits = room(len(low)), room(len(low), np.bool_)
            loops.whole_sums(before, column.sums_before(prefix, low), counts, whole, fits)
            out["sum"] = arrow_of("int64", whole, nulls_of(fits))
        sums, means = (room(len(low) if kind in kinds - set(out) else 0, np.float64) for kind in ("sum", "mean"))
        loops.sums_and_means(*column.given, prefix, before, low, counts, column.unit, sums, means)
        floats = {kind: each for kind, each in (("sum", sums), ("mean", means)) if kind in kinds - set(out)}
        return {**out, **{kind: arrow_of("float64", each, nulls) for kind, each in floats.items()}}

    def _extremes_before(self, found: Asked, high: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """The column's extremes by blocks, and those from the blocks on in which ranges end."""
        column, name = self._numbers(found), given(found.value)
        if name not in self._blocks:
            self._blocks[name] = column.block_extremes()
        if (name, id(high)) not in self._newest:
            self._newest[name, id(high)] = high, *column.newest_extremes(high)
        return *self._blocks[name], *self._newest[name, id(high)][1:]

    def _sums_before(self, found: Asked, high: Ints) -> tuple[Array, Array] | None:
        """The column's sums by blocks, and those before the ends; None where 128 bits might not hold them."""
        column, name = self._numbers(found), given(found.value)
        if name not in self._prefix:
            self._prefix[name] = column.block_sums()
        if (prefix := self._prefix[name]) is None:
            return None
        if (name, id(high)) not in self._before:
            self._before[name, id(high)] = high, column.sums_before(prefix, high)
        return prefix, self._before[name, id(high)][1]

    def _numbers(self, found: Asked) -> Numbers:
        name = given(found.value)
        if name not in self._columns:
            self._columns[name] = Numbers.of(self._events.columns[name], found.dtype)
        return self._columns[name]

    def _counted(self, counter: str | None, low: Ints, high: Ints) -> Ints:
        """How many values each range has."""
        if counter not in self._counts:
            valid = None if counter is None else self._events.columns[counter].valid
            self._counts[counter] = room(0 if valid is None else len(valid) + 1)
            if valid is not None:
                loops.count_valid(valid, self._counts[counter])
        counts: Ints = room(len(low))
        loops.counts_of(self._counts[counter], low, high, counts)
        return counts
