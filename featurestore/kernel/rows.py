"""Row payloads: the tiles of one entity in one view as bytes, many rows at a time.

    header | records of level 0, 1, ... (each in tile order) | bytes of strings

The header says which layout the row was written with, the newest event time, how many records each level
has, and the rung of each exact sum. A level's records have one fixed width for given rungs, so rows of
equal rungs are decoded together with one `frombuffer` a level.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featurestore.errors import RowLayoutError
from featurestore.kernel.aggregates.heaps import heap_of
from featurestore.kernel.aggregates.partial import State
from featurestore.kernel.exact import RUNGS
from featurestore.kernel.plan import Level, Plan
from featurestore.kernel.tiles import Tiles, merged, tiles_none
from featurestore.kernel.tilings import Single
from featurestore.kernel.windows import tiles_max

Ints = npt.NDArray[np.int64]

_NO_EVENT = np.iinfo(np.int64).min
# Layout and newest event time, with which every header begins.
_BEGINNING = struct.Struct("<Iq")
# Of ordinary floats, such as amounts.
_ORDINARY = 1


@dataclass(frozen=True, slots=True)
class Rows:
    """Decoded rows: tiles of every level, and the newest event time of each row."""

    levels: tuple[Tiles, ...]
    newest_us: Ints


def encode(rows: Rows, plan: Plan) -> list[bytes]:
    """One payload a row of `rows.newest_us`."""
    count = len(rows.newest_us)
    rungs = _rungs_needed(rows, plan)
    headers = np.zeros(count, dtype=_header(plan))
    headers["layout"], headers["newest_us"], headers["rungs"] = plan.layout, rows.newest_us, rungs
    for index, tiles in enumerate(rows.levels):
        headers["counts"][:, index] = np.bincount(tiles.row, minlength=count)
    pieces: list[list[bytes]] = [[header] for header in _split(headers.tobytes(), count)]
    heaps: list[list[bytes]] = [[] for _ in range(count)]
    groups = _groups(rungs)
    for index, (level, tiles) in enumerate(zip(plan.levels, rows.levels, strict=True)):
        for combination, members in groups:
            _encode_level(level, tiles, members, count, _level_rungs(plan, index, combination), pieces, heaps)
    return [b"".join((*piece, *heap)) for piece, heap in zip(pieces, heaps, strict=True)]


def decode(payloads: Sequence[bytes | None], plan: Plan) -> Rows:
    """The tiles of all payloads; `None` is a row without any. Raises RowLayoutError."""
    header_type = _header(plan)
    size = header_type.itemsize
    present = [index for index, payload in enumerate(payloads) if payload is not None]
    held = [payload for payload in payloads if payload is not None]
    newest_us = np.full(len(payloads), _NO_EVENT, dtype=np.int64)
    if not present:
        return Rows(tuple(tiles_none(level) for level in plan.levels), newest_us)
    if any(len(payload) < size for payload in held):
        raise RowLayoutError(plan.layout, None)
    headers = np.frombuffer(b"".join([payload[:size] for payload in held]), dtype=header_type)
    other = headers["layout"][headers["layout"] != plan.layout]
    if len(other):
        raise RowLayoutError(plan.layout, int(other[0]))
    if (headers["rungs"] >= len(RUNGS)).any():
        raise RowLayoutError(plan.layout, None)
    newest_us[present] = headers["newest_us"]
    parts: list[list[Tiles]] = [[] for _ in plan.levels]
    rows = np.array(present, dtype=np.int64)
    for combination, members in _groups(headers["rungs"]):
        group = [held[member] for member in members]
        counts = headers["counts"][members].astype(np.int64)
        types = [_record(level, _level_rungs(plan, index, combination)) for index, level in enumerate(plan.levels)]
        heap_at = size + counts @ np.array([each.itemsize for each in types])
        at = np.full(len(group), size, dtype=np.int64)
        for index, (level, record) in enumerate(zip(plan.levels, types, strict=True)):
            end = at + counts[:, index] * record.itemsize
            if any(len(payload) < stop for payload, stop in zip(group, end, strict=True)):
                raise RowLayoutError(plan.layout, None)
            joined = b"".join([p[a:b] for p, a, b in zip(group, at.tolist(), end.tolist(), strict=True)])
            records = np.frombuffer(joined, dtype=record)
            owner = np.repeat(np.arange(len(group)), counts[:, index])
            rungs = _level_rungs(plan, index, combination)
            states: dict[str, State] = {}
            for partial, rung in zip(level.partials, rungs, strict=True):
                stored = {f.name: records[f"{partial.name}.{f.name}"] for f in partial.fields(rung)}
                if partial.has_heap:
                    stored["value"] = _from_heap(group, heap_at, owner, stored["value"].astype(np.int64))
                states[partial.name] = partial.load(stored, rung)
            parts[index].append(Tiles(rows[members][owner], records["tile"].astype(np.int64), states))
            at = end
        if any(len(payload) != stop for payload, stop in zip(group, heap_at.tolist(), strict=True)):
            raise RowLayoutError(plan.layout, None)
    levels = tuple(merged(part, level) for part, level in zip(parts, plan.levels, strict=True))
    return Rows(levels, newest_us)


def newest_event_us(payloads: Sequence[bytes | None], plan: Plan) -> list[int | None]:
    """The newest event time that each row includes, for its age; None without events.

    Looks at the beginnings of the headers alone. Raises RowLayoutError.
    """
    out: list[int | None] = []
    for payload in payloads:
        if payload is None:
            out.append(None)
            continue
        if len(payload) < _BEGINNING.size:
            raise RowLayoutError(plan.layout, None)
        layout, newest_us = _BEGINNING.unpack_from(payload)
        if layout != plan.layout:
            raise RowLayoutError(plan.layout, layout)
        out.append(None if newest_us == _NO_EVENT else newest_us)
    return out


class RowBytes(NamedTuple):
    """What a row takes.

    cold       with one event
    dense      with every tile as full as can be, of ordinary numbers
    most       the same where numbers are very large and very small at once, so that sums need all their digits
    has_texts  whether texts come on top, as long as they are
    """

    cold: int
    dense: int
    most: int
    has_texts: bool


def row_bytes(plan: Plan) -> RowBytes:
    """Bytes of a plan's rows, from one event to all that they can hold."""
    cold, dense, has_texts = _row_bytes(plan, _ORDINARY)
    return RowBytes(cold, dense, _row_bytes(plan, len(RUNGS) - 1)[1], has_texts)


def _row_bytes(plan: Plan, rung: int) -> tuple[int, int, bool]:
    cold = dense = _header(plan).itemsize
    has_texts = False
    for index, level in enumerate(plan.levels):
        record = _record(level, _level_rungs(plan, index, (rung,) * len(plan.exact_names))).itemsize
        heaps = [heap_of(partial) for partial in level.partials]
        one, most = (record + sum(each) for each in ([h.one for h in heaps], [h.most for h in heaps]))
        cold += one
        # A tile of the newest events holds one of them.
        dense += (one if isinstance(level.tiling, Single) else most) * max(
            tiles_max(window) for window in level.windows
        )
        has_texts |= any(each.has_texts for each in heaps)
    return cold, dense, has_texts


def _encode_level(
    level: Level,
    tiles: Tiles,
    members: Ints,
    count: int,
    rungs: tuple[int, ...],
    pieces: list[list[bytes]],
    heaps: list[list[bytes]],
) -> None:
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[members] = True
    mine = tiles.take(chosen[tiles.row])
    record = _record(level, rungs)
    records = np.zeros(len(mine), dtype=record)
    records["tile"] = mine.tile
    bounds = np.searchsorted(mine.row, np.append(members, count))
    spans = list(zip(members.tolist(), bounds[:-1].tolist(), _ends(mine.row, members), strict=True))
    for partial, rung in zip(level.partials, rungs, strict=True):
        stored = partial.store(mine.states[partial.name], rung)
        if partial.has_heap:
            values = [value if isinstance(value, bytes) else b"" for value in stored["value"]]
            stored = {**stored, "value": np.array([len(value) for value in values], dtype=np.int64)}
            for row, start, end in spans:
                heaps[row].extend(values[start:end])
        for field in partial.fields(rung):
            records[f"{partial.name}.{field.name}"] = stored[field.name]
    raw, size = memoryview(records.tobytes()), record.itemsize
    for row, start, end in spans:
        if end > start:
            pieces[row].append(bytes(raw[start * size : end * size]))


def _ends(rows: Ints, members: Ints) -> list[int]:
    ends: list[int] = np.searchsorted(rows, members, side="right").tolist()
    return ends


def _from_heap(group: list[bytes], heap_at: Ints, owner: Ints, sizes: Ints) -> npt.NDArray[np.object_]:
    """The strings of one partial of one level; moves `heap_at` past them."""
    values = np.empty(len(sizes), dtype=object)
    for index, (row, size) in enumerate(zip(owner.tolist(), sizes.tolist(), strict=True)):
        start = int(heap_at[row])
        values[index] = group[row][start : start + size]
        heap_at[row] = start + size
    return values


@lru_cache(maxsize=1024)  # a plan has a few dozen rung combinations at most; the bound guards against hostile ones
def _record_of(fields: tuple[tuple[str, str, int], ...]) -> np.dtype[np.void]:
    return np.dtype([("tile", "<i8"), *((name, kind) if n == 1 else (name, kind, (n,)) for name, kind, n in fields)])


def _record(level: Level, rungs: tuple[int, ...]) -> np.dtype[np.void]:
    return _record_of(
        tuple(
            (f"{partial.name}.{field.name}", field.dtype, field.count)
            for partial, rung in zip(level.partials, rungs, strict=True)
            for field in partial.fields(rung)
        )
    )


def _header(plan: Plan) -> np.dtype[np.void]:
    rungs = max(1, len(plan.exact_names))
    return np.dtype(
        [
            ("layout", "<u4"),
            ("newest_us", "<i8"),
            ("counts", "<u4", (len(plan.levels),)),
            ("rungs", "u1", (rungs,)),
            # Fixed-width records are read as words of 32 bits, so they begin at one.
            ("padding", "u1", (-rungs % 4,)),
        ]
    )


def _level_rungs(plan: Plan, index: int, combination: tuple[int, ...]) -> tuple[int, ...]:
    rung_of = dict(zip(plan.exact_names, combination, strict=False))
    return tuple(rung_of[partial.name] if partial.has_rung else 0 for partial in plan.levels[index].partials)


def _rungs_needed(rows: Rows, plan: Plan) -> npt.NDArray[np.uint8]:
    """For each row and exact sum: the smallest rung that holds all its tiles."""
    names = plan.exact_names
    need = np.ones((len(rows.newest_us), max(1, len(names))), dtype=np.uint8)
    for level, tiles in zip(plan.levels, rows.levels, strict=True):
        for partial in level.partials:
            if partial.has_rung:
                rungs = partial.rungs(tiles.states[partial.name])
                np.maximum.at(need[:, names.index(partial.name)], tiles.row, rungs)
    return need


def _groups(rungs: npt.NDArray[np.uint8]) -> list[tuple[tuple[int, ...], Ints]]:
    """Rows of equal rungs together: their rungs, and their indices in order."""
    if not len(rungs):
        return []
    distinct, which = np.unique(rungs, axis=0, return_inverse=True)
    which = which.reshape(-1)
    return [(tuple(int(r) for r in each), np.flatnonzero(which == index)) for index, each in enumerate(distinct)]


def _split(raw: bytes, count: int) -> list[bytes]:
    size = len(raw) // count if count else 0
    return [raw[index * size : (index + 1) * size] for index in range(count)]
