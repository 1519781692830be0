"""Counts, sums, means, minima and maxima over many overlapping ranges of sorted events, finished where they are found.

They are most of what is asked for, so their loops write what Arrow holds, and leave no states to be finished. Promise:
the same bits as the aggregate's own `finish` over the same ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernel.aggregates.compiled import given
from featurestore.kernel.aggregates.counting import CountPartial
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.partial import Array
from featurestore.kernel.aggregates.sums import SumPartial
from featurestore.kernel.events import Column, DataType, Events, arrow_type
from featurestore.kernel.loops import ranges as loops
from featurestore.kernel.plan import Output
from featurestore.kernel.windows import Window

Ints = npt.NDArray[np.int64]

# Units of the running sums, as powers of two.
FLOAT_UNIT, INT_UNIT = -64, 0
_NUMBERS: tuple[DataType, ...] = ("float64", "int64", "bool", "timestamp")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plain output is finished from: how many values `counter` has, and what is made of `value`."""

    counter: str | None
    value: str | None
    dtype: DataType


def asked(output: Output) -> Asked | None:
    """None where the loops cannot finish it."""
    kind, partials = output.aggregate.plain, output.aggregate.partials
    match partials:
        case (CountPartial() as counter,) if kind == "count":
            return Asked(counter.column, None, "int64")
        case (CountPartial() as counter, SumPartial(power=1) as found) if kind in ("sum", "mean"):
            fits = found.dtype in _NUMBERS and output.aggregate.dtype in ("float64", "int64")
        case (CountPartial() as counter, ExtremePartial() as found) if kind in ("min", "max"):
            fits = found.dtype in _NUMBERS and output.aggregate.dtype == found.dtype
        case _:
            return None
    return Asked(counter.column, found.column, found.dtype) if fits else None


def arrow_of(dtype: str, values: Array, nulls: pa.Buffer | None) -> pa.Array:
    """Numbers of 64 bits as they are."""
    return pa.Array.from_buffers(arrow_type(dtype), len(values), [nulls, pa.py_buffer(values)])


def nulls_of(valid: npt.NDArray[np.bool_]) -> pa.Buffer | None:
    """None where every value is there."""
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def running_sums(column: Column, is_float: bool) -> Array | None:
    """Sums of all events before each one, in units of 2**-64 or of one; None where 128 bits might not hold them."""
    valid = valid_of(column)
    prefix = np.empty((len(valid) + 1, 2), dtype=np.uint64)
    if is_float:
        return prefix if loops.sum_floats(bits_of(column, is_float), valid, prefix) else None
    loops.sum_ints(bits_of(column, is_float), valid, prefix)
    return prefix


def block_extremes(column: Column, is_float: bool) -> tuple[Ints, Ints]:
    """The least and the greatest key of stretches of blocks."""
    numbers = bits_of(column, is_float)
    blocks = (len(numbers) + (1 << loops.BLOCK_BITS) - 1) >> loops.BLOCK_BITS
    least, most = np.empty((2, max(1, blocks.bit_length()), blocks), dtype=np.int64)
    loops.block_extremes(numbers, valid_of(column), is_float, least, most)
    return least, most


def newest_extremes(column: Column, is_float: bool, high: Ints) -> tuple[Ints, Ints]:
    """The least and the greatest key from the block on in which each range ends."""
    least, most = np.empty((2, len(high)), dtype=np.int64)
    loops.newest_extremes(bits_of(column, is_float), valid_of(column), is_float, high, least, most)
    return least, most


def bits_of(column: Column, is_float: bool) -> Ints:
    """The numbers as int64; of floats the bits."""
    if is_float:
        return np.ascontiguousarray(column.values, dtype=np.float64).view(np.int64)
    return np.ascontiguousarray(column.values, dtype=np.int64)


def valid_of(column: Column) -> npt.NDArray[np.bool_]:
    return np.ones(len(column.values), dtype=np.bool_) if column.valid is None else column.valid


class PlainValues:
    """The plain outputs of a plan over ranges [low, high) of the sorted events, window by window."""

    def __init__(self, events: Events, outputs: Sequence[Output]) -> None:
        self._events = events
        self._asked = [(output, found) for output in outputs if (found := asked(output)) is not None]
        # What is made of a column once, for all windows.
        self._counts: dict[str | None, Ints] = {}
        self._sums: dict[str, Array | None] = {}
        self._blocks: dict[str, tuple[Ints, Ints]] = {}
        self._newest: dict[str, tuple[Ints, Ints, Ints]] = {}

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
        is_float, size, nulls = found.dtype == "float64", len(low), nulls_of(counts > 0)
        column, out = self._events.columns[found.value], {}
        if kinds & {"min", "max"}:
            least, most = np.empty((2, size), dtype=np.int64)
            edges = self._edges(found.value, column, is_float, high)
            loops.extremes(bits_of(column, is_float), valid_of(column), is_float, *edges, counts, low, high, least, most)
            out = {"min": arrow_of(found.dtype, least, nulls), "max": arrow_of(found.dtype, most, nulls)}
        if found.value not in self._sums and kinds & {"sum", "mean"}:
            self._sums[found.value] = running_sums(column, is_float)
        if not kinds & {"sum", "mean"} or (prefix := self._sums[found.value]) is None:
            return out
        if "sum" in kinds and not is_float:
            whole, fits = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.bool_)
            loops.whole_sums(prefix, counts, low, high, whole, fits)
            out["sum"] = arrow_of("int64", whole, nulls_of(fits))
        sums, means = (np.empty(size if kind in kinds - set(out) else 0) for kind in ("sum", "mean"))
        loops.sums_and_means(prefix, FLOAT_UNIT if is_float else INT_UNIT, counts, low, high, sums, means)
        floats = {"sum": sums, "mean": means}
        return {**{kind: arrow_of("float64", each, nulls) for kind, each in floats.items() if kind in kinds}, **out}

    def _counted(self, counter: str | None, low: Ints, high: Ints) -> Ints:
        """How many values each range has."""
        if counter not in self._counts:
            valid = None if counter is None else self._events.columns[counter].valid
            self._counts[counter] = np.empty(0 if valid is None else len(valid) + 1, dtype=np.int64)
            if valid is not None:
                loops.count_valid(valid, self._counts[counter])
        counts = np.empty(len(low), dtype=np.int64)
        loops.counts_of(self._counts[counter], low, high, counts)
        return counts

    def _edges(self, name: str, column: Column, is_float: bool, high: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Extremes of blocks, and from the last of them on to where each range ends: of most windows the moment."""
        if name not in self._blocks:
            self._blocks[name] = block_extremes(column, is_float)
        if name not in self._newest or self._newest[name][0] is not high:
            self._newest[name] = (high, *newest_extremes(column, is_float, high))
        return *self._blocks[name], *self._newest[name][1:]
