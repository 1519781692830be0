"""Fold and roll-up of rows whose records all have a fixed width: payloads in and out of the compiled loops.

Rows go through in chunks that fit the processor's cache. What the loops cannot do (a sum that has to move to another
rung, a row that is not as its header says) is left to the NumPy way, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernel import exact
from featurestore.kernel.aggregates.counting import CountPartial
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.order import OrderPartial
from featurestore.kernel.aggregates.partial import Partial, State
from featurestore.kernel.aggregates.sums import ProductPartial, SumPartial
from featurestore.kernel.events import Events, arrow_type
from featurestore.kernel.loops import fold as folding
from featurestore.kernel.loops import roll_up as rolling
from featurestore.kernel.loops import roll_values as rolled
from featurestore.kernel.loops.payloads import find, gather
from featurestore.kernel.loops.words import lift
from featurestore.kernel.memory import room
from featurestore.kernel.pieces import Pieces
from featurestore.kernel.plan import Plan
from featurestore.kernel.program import DIGITS_MAX, POWER, RUNG_PLACE, Program
from featurestore.kernel.windows import Window

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]

# About half a megabyte of large rows: they stay in the cache from reading to writing.
_CHUNK_ROWS = 512
_FAR_END = np.iinfo(np.int64).max


def fold_packed(
    payloads: Sequence[bytes | None], events: Events, plan: Plan, program: Program, skip: int = 0
) -> tuple[Pieces, Ints]:
    """The folded rows, and which of them have to be folded the other way (what is given for them means nothing).

    skip  bytes before each row that are not its own
    """
    order, begin = folding.by_row(
        *(np.ascontiguousarray(each) for each in (events.row, events.event_us, events.partition, events.offset)),
        len(payloads),
    )
    # Gathered once, so that the loops read what lies side by side.
    events = events.take(order)
    event_us, partition, offset = events.event_us, events.partition, events.offset
    values, valid = program.numbers(events)
    tiles = room((len(plan.levels), len(events)))
    for index, level in enumerate(plan.levels):
        tiles[index] = level.tiling.tile_of(event_us)
    shape = len(events), len(program.sums)
    digits, need = room((*shape, DIGITS_MAX), np.uint32), room(shape, np.uint8)
    first, (size, sign) = room(shape, np.int32), room((2, *shape), np.int8)
    lift(values, valid, program.is_float, program.sums, digits, size, first, sign, need)
    tables = _tables(program)
    out: list[Words] = []
    sizes: list[Ints] = []
    undone: list[Ints] = []
    for start, words, row_at in _chunks(payloads, skip):
        rows = len(row_at) - 1
        here, newest = begin[start : start + rows + 1], np.empty(rows, dtype=np.int64)
        folding.newest_events(words, row_at, here, event_us, newest)
        oldest = np.empty((len(plan.levels), rows), dtype=np.int64)
        for index, level in enumerate(plan.levels):
            oldest[index] = np.minimum.reduce([over.first_tile(newest) for over in level.windows])
        done = np.empty(rows, dtype=np.bool_)
        most = folding.room_for(words, words.view(np.uint8), row_at, here, plan.layout, *tables, done)
        folded, folded_at = room(most, np.uint32), np.empty(rows + 1, dtype=np.int64)
        folding.fold_rows(
            words, row_at, here, tiles, oldest, newest, partition, offset, event_us,
            values, valid, digits, size, first, sign, need,
            plan.layout, *tables, folded, folded.view(np.uint8), folded_at, done,
        )  # fmt: skip
        out.append(folded[: folded_at[-1]])
        sizes.append(4 * np.diff(folded_at))
        undone.append(start + np.flatnonzero(~done))
    ends = np.zeros(len(payloads) + 1, dtype=np.int64)
    if not out:
        return Pieces(np.zeros(0, dtype=np.uint8), ends), ends[:0]
    np.cumsum(np.concatenate(sizes), out=ends[1:])
    whole: Words = room(int(ends[-1]) // 4, np.uint32)
    return Pieces(np.concatenate(out, out=whole).view(np.uint8), ends), np.concatenate(undone)


def roll_values(
    payloads: Sequence[bytes | None], moment_us: int, plan: Plan, program: Program
) -> dict[str, pa.Array] | None:
    """The plain outputs' values; None when a row is damaged, or a value has to be found another way."""
    held = list(payloads)
    addresses, lengths = np.empty((2, len(held)), dtype=np.int64)
    if not find(id(held), id(None), id(bytes), addresses, lengths):
        return None
    numbers, lows = np.empty((2, len(program.read), len(held)), dtype=np.int64)
    if not rolled.roll_values(
        addresses, lengths, plan.layout, *_tables(program), *_spans(moment_us, plan),
        program.read, program.read_at, program.partner, numbers, lows,
    ):  # fmt: skip
        return None
    out = np.empty((len(program.plain), len(held)), dtype=np.int64)
    there = np.empty(out.shape, dtype=np.bool_)
    rolled.finish_values(
        program.operations,
        program.sums,
        program.read,
        program.finishes,
        numbers,
        lows,
        out,
        out.view(np.float64),
        there,
    )
    values, size = pa.py_buffer(out), 8 * len(held)
    all_there: list[bool] = there.all(axis=1).tolist()  # type: ignore[assignment]  # of two axes one is left
    bits = np.packbits(there, axis=1, bitorder="little")
    arrays = {}
    for index, output in enumerate(program.plain):
        nulls = None if all_there[index] else pa.py_buffer(bits[index])
        mine = values.slice(index * size, size)
        arrays[output.name] = pa.Array.from_buffers(arrow_type(output.aggregate.dtype), len(held), [nulls, mine])
    return arrays


def _spans(moment_us: int, plan: Plan) -> tuple[Ints, Ints, Ints]:
    """Of the windows at the moment, level by level: the level, the first tile, and the first that is too new."""
    moment = np.array([moment_us], dtype=np.int64)
    spans = [(index, over) for index, level in enumerate(plan.levels) for over in level.windows]
    ends = [over.end_tile(moment) for _, over in spans]
    return (
        np.array([index for index, _ in spans], dtype=np.int64),
        np.array([over.first_tile(moment)[0] for _, over in spans], dtype=np.int64),
        np.array([_FAR_END if each is None else each[0] for each in ends], dtype=np.int64),
    )


def roll_up_packed(
    payloads: Sequence[bytes | None], moment_us: int, plan: Plan, program: Program
) -> dict[Window, tuple[Ints, dict[str, State]]] | None:
    """For each window the rows that have a tile in it, and their merged partials; None when a row is damaged."""
    span_level, first, end = _spans(moment_us, plan)
    spans = [(index, over) for index, level in enumerate(plan.levels) for over in level.windows]
    tables = _tables(program)
    widest = np.where(program.sums[:, RUNG_PLACE] >= 0, 1, 0)
    chunks = list(_chunks(payloads))
    for _, words, row_at in chunks:
        if not rolling.look(words, words.view(np.uint8), row_at, plan.layout, *tables, widest):
            return None
    sizes = [[_numbers(partial, program, widest) for partial in plan.levels[index].partials] for index, _ in spans]
    span_at = np.concatenate(([0], np.cumsum([sum(each) for each in sizes]))).astype(np.int64)
    out = np.empty((len(payloads), span_at[-1]), dtype=np.int64)
    covered = np.empty((len(spans), len(payloads)), dtype=np.bool_)
    for start, words, row_at in chunks:
        some = slice(start, start + len(row_at) - 1)
        rolling.roll_rows(
            words,
            words.view(np.uint8),
            row_at,
            *tables,
            widest,
            span_level,
            first,
            end,
            span_at,
            out[some],
            covered[:, some],
        )
    found = {}
    for number, (index, over) in enumerate(spans):
        present = np.flatnonzero(covered[number])
        at = int(span_at[number])
        states = {}
        for partial, size in zip(plan.levels[index].partials, sizes[number], strict=True):
            numbers = out[:, at : at + size]
            states[partial.name] = _state(partial, numbers if len(present) == len(out) else numbers[present])
            at += size
        found[over] = present, states
    return found


def _tables(program: Program) -> tuple[Any, ...]:
    """What every loop is told, with room for the widths of the row at hand."""
    known = np.zeros(len(program.sums) + 1, dtype=np.int64)
    widths, sizes = np.zeros(len(program.operations), dtype=np.int64), np.zeros(len(program.level_at), dtype=np.int64)
    tables = program.operations, program.level_at, program.sums, program.header_words
    return *tables, known, widths, sizes, np.zeros(len(program.sums), dtype=np.int64)


def _chunks(payloads: Sequence[bytes | None], skip: int = 0) -> Iterator[tuple[int, Words, Ints]]:
    """Index of the first row, the rows as words, and where each row begins; of a row whose length is no multiple of
    a word nothing, with a length that no header agrees with."""
    held = list(payloads)
    addresses, lengths = np.empty((2, len(held)), dtype=np.int64)
    is_found = find(id(held), id(None), id(bytes), addresses, lengths)
    for start in range(0, len(held), _CHUNK_ROWS):
        mine = lengths[start : start + _CHUNK_ROWS]
        begin = np.zeros(len(mine) + 1, dtype=np.int64)
        np.cumsum(np.maximum(mine - skip, 0), out=begin[1:])
        if is_found and not (begin % 4).any():
            words: Words = room(int(begin[-1]) // 4, np.uint32)
            gather(addresses[start : start + _CHUNK_ROWS], skip, begin // 4, words)
            yield start, words, begin // 4
            continue
        some = [(payload or b"")[skip:] for payload in held[start : start + _CHUNK_ROWS]]
        sizes = np.array([len(payload) for payload in some], dtype=np.int64)
        if (sizes % 4).any():
            some = [payload if len(payload) % 4 == 0 else b"\xff" * 4 for payload in some]
            sizes = np.array([len(payload) for payload in some], dtype=np.int64)
        row_at = np.zeros(len(some) + 1, dtype=np.int64)
        np.cumsum(sizes // 4, out=row_at[1:])
        yield start, np.frombuffer(b"".join(some), dtype=np.uint32), row_at


def _numbers(partial: Partial, program: Program, widest: Ints) -> int:
    """How many numbers a merged partial has."""
    if isinstance(partial, OrderPartial):
        return 4
    if isinstance(partial, SumPartial | ProductPartial):
        slot = program.slots[partial.name]
        return exact.width(int(widest[slot]), int(program.sums[slot, POWER]))
    return 1


def _state(partial: Partial, numbers: Ints) -> State:
    match partial:
        case CountPartial():
            return {"count": numbers[:, 0]}
        case ExtremePartial():
            return {"value": _typed(numbers[:, 0], partial.dtype)}
        case OrderPartial():
            places: State = {"offset": numbers[:, 1], "partition": numbers[:, 2].astype(np.int32)}
            return {"event_us": numbers[:, 0], **places, "value": _typed(numbers[:, 3], partial.dtype)}
        case _:
            return {"digits": numbers}


def _typed(numbers: Ints, dtype: str) -> npt.NDArray[np.float64] | Ints | npt.NDArray[np.bool_]:
    if dtype == "float64":
        return np.ascontiguousarray(numbers).view(np.float64)
    return numbers.astype(np.bool_) if dtype == "bool" else numbers
