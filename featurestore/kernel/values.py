"""The three uses of the kernel: fold a batch into rows, roll rows up at a moment, values at any past moments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.event_time import MOMENT_MAX_US
from featurestore.kernel import exact
from featurestore.kernel.aggregates.compiled import Span
from featurestore.kernel.aggregates.partial import Partial, State, take
from featurestore.kernel.decay import TileSums, faded
from featurestore.kernel.decimals import decimal_array, decimal_type, words_of
from featurestore.kernel.events import Column, Events, arrow_type, is_single
from featurestore.kernel.memory import room
from featurestore.kernel.pieces import Pieces
from featurestore.kernel.plan import Output, Plan
from featurestore.kernel.rows import Rows, decode, encode
from featurestore.kernel.threads import Run, at_once, in_turn
from featurestore.kernel.tiles import Tiles, merged, rolled_up, tiles_from, unexpired
from featurestore.kernel.windows import Newest, Session, Window

Ints = npt.NDArray[np.int64]
# Below this, starting threads takes as long as they save.
_THREADS_FROM = 50_000


def fold(payloads: Sequence[bytes | None], events: Events, plan: Plan) -> list[bytes]:
    """The rows with the events counted in; `events.row` points into `payloads`, which are left as they were."""
    return list(fold_pieces(payloads, events, plan))


def fold_pieces(payloads: Sequence[bytes | None], events: Events, plan: Plan, *, skip: int = 0) -> Pieces:
    """The same, side by side.

    skip  bytes before each payload that are not its own
    """
    if plan.program is None:
        return Pieces.of(fold_with_numpy(_without(payloads, skip), events, plan))
    from featurestore.kernel.packed_rows import fold_packed

    folded, undone = fold_packed(payloads, plan.prepare(events), plan, plan.program, skip)
    if not len(undone):
        return folded
    chosen = np.flatnonzero(np.isin(events.row, undone))
    some = replace(events.take(chosen), row=np.searchsorted(undone, events.row[chosen]))
    held = _without([payloads[row] for row in undone.tolist()], skip)
    rows = list(folded)
    for row, payload in zip(undone.tolist(), fold_with_numpy(held, some, plan), strict=True):
        rows[row] = payload
    return Pieces.of(rows)


def _without(payloads: Sequence[bytes | None], skip: int) -> list[bytes | None]:
    return [None if payload is None else payload[skip:] for payload in payloads]


def fold_with_numpy(payloads: Sequence[bytes | None], events: Events, plan: Plan) -> list[bytes]:
    """The same, for plans and rows of every kind."""
    rows = decode(payloads, plan)
    ordered = plan.prepare(events.sorted())
    newest_us = rows.newest_us.copy()
    np.maximum.at(newest_us, ordered.row, ordered.event_us)
    levels = tuple(
        unexpired(merged([tiles, tiles_from(ordered, level)], level), level, newest_us)
        for tiles, level in zip(rows.levels, plan.levels, strict=True)
    )
    return encode(Rows(levels, newest_us), plan)


def warm_up() -> None:
    """Load the compiled loops now rather than at the first event: seconds on a new machine, where they are compiled."""
    from featurestore.kernel.plan import Feature, compile_plan

    features = {"n": Feature("count"), "total": Feature("sum", "x").over("1h"), "most": Feature("max", "x").over("1h")}
    plan = compile_plan("warm_up", features, {"x": "float64"}, frozenset())
    one = np.zeros(1, dtype=np.int64)
    events = Events(one, one, one.astype(np.int32), one, {"x": Column(np.ones(1))})
    roll_up(fold([None], events, plan), 1, plan)


def roll_up(payloads: Sequence[bytes | None], moment_us: int, plan: Plan) -> dict[str, pa.Array]:
    """Every output's value at the moment, one a payload; an absent row is an entity without events."""
    if plan.program is not None and plan.is_rolled_up_packed:
        moments_us = np.full(len(payloads), moment_us, dtype=np.int64)
        from featurestore.kernel.packed_rows import roll_up_packed, roll_values

        out = roll_values(payloads, moment_us, plan, plan.program)
        rest = [output for output in plan.outputs if out is None or output.name not in out]
        found = roll_up_packed(payloads, moment_us, plan, plan.program) if rest else {}
        if found is not None:
            out = {**(out or {}), **{each.name: _finished(each, *found[each.window], moments_us) for each in rest}}
            return {output.name: _in_calendar(out[output.name]) for output in plan.outputs}
    return roll_up_with_numpy(payloads, moment_us, plan)


def roll_up_with_numpy(payloads: Sequence[bytes | None], moment_us: int, plan: Plan) -> dict[str, pa.Array]:
    """The same, for plans and rows of every kind."""
    rows, moments_us = decode(payloads, plan), np.full(len(payloads), moment_us, dtype=np.int64)
    out = {}
    spans: dict[Window, tuple[Ints, Mapping[str, State]]] = {}
    for output in plan.outputs:
        index = plan.level_of(output)
        if output.window not in spans:
            tiles = rolled_up(rows.levels[index], plan.levels[index], output.window, moment_us)
            spans[output.window] = (tiles.row, tiles.states)
        present, states = spans[output.window]
        if output.aggregate.faded:
            states = {**states, **_faded_in_rows(output, rows.levels[index], present, moments_us[present])}
        out[output.name] = _in_calendar(_finished(output, present, states, moments_us))
    return out


def values_at(
    events: Events,
    spine_row: npt.NDArray[np.int64],
    spine_us: npt.NDArray[np.int64],
    plan: Plan,
    *,
    threads_from: int = _THREADS_FROM,
) -> dict[str, pa.Array]:
    """Every output's value for each (entity, moment) of a spine, from the events themselves.

    events     (n) any order
    spine_row  (m) and spine_us (m): index of the entity as in `events.row`, and the moment, in any order
    returns    output name -> (m) values in spine order

    threads_from  moments times windows from which windows are worked on side by side, with the same bits
    """
    # Not at the top: the loops need Numba, whose import takes a third of a second.
    from featurestore.kernel.plain import PlainValues
    from featurestore.kernel.ranges import Over, ranged

    ordered = plan.prepare(events.sorted())
    place = _Places(ordered)
    plain = PlainValues(ordered, plan.outputs)
    out: dict[str, pa.Array] = {}
    ranges: dict[Window, tuple[Ints, Ints]] = {}
    windows = list(dict.fromkeys(output.window for output in plan.outputs))
    with at_once(len(windows) * len(spine_us) >= threads_from) as run:
        up_to = place.after(spine_row, spine_us, run)
        edges = [functools.partial(_ranges, ordered, place, over, spine_row, spine_us, up_to) for over in windows]
        ranges.update(zip(windows, run([*edges, *plain.shared(up_to)])[: len(windows)], strict=True))
        for values in run([functools.partial(plain.over, over, *ranges[over]) for over in windows]):
            out.update(values)
    overs: dict[str, Over] = {}
    spans: dict[Window, tuple[Ints, Ints, Ints]] = {}
    states: dict[tuple[Window, str], State] = {}
    for output in plan.outputs:
        if output.name in out:
            continue
        over = output.window
        if over not in spans:
            low, high = ranges[over]
            some = np.flatnonzero(low < high)
            spans[over] = (some, low, high) if len(some) == len(low) else (some, low[some], high[some])
        some, low, high = spans[over]
        for partial in output.aggregate.partials:
            if (over, partial.name) in states:
                continue
            if partial.name in output.aggregate.faded:
                lifted = partial.lift(ordered)
                state = _faded_in_events(output, partial, lifted, ordered, place, spine_row[some], spine_us[some])
            elif not len(some):
                state = take(partial.lift(ordered), some)
            else:
                if partial.name not in overs:
                    overs[partial.name] = ranged(partial, ordered)
                state = overs[partial.name](low, high)
            states[over, partial.name] = state
        mine = {partial.name: states[over, partial.name] for partial in output.aggregate.partials}
        out[output.name] = _finished(output, some, mine, spine_us)
    return {output.name: _in_calendar(out[output.name]) for output in plan.outputs}


def _ranges(
    events: Events, place: _Places, over: Window, spine_row: Ints, spine_us: Ints, high: Ints
) -> tuple[Ints, Ints]:
    """The events of each (entity, moment) that the window covers: from low, before high, in event order.

    high  where the moments themselves are
    """
    if isinstance(over, Newest):
        first = np.searchsorted(events.row, spine_row)
        return np.maximum(first, high - over.events), high
    low = place.at_or_after(spine_row, over.tiling.start_us(over.first_tile(spine_us)))
    end = over.end_tile(spine_us)
    if end is not None:
        return low, place.at_or_after(spine_row, over.tiling.start_us(end))
    if isinstance(over, Session) and len(events):
        begins = np.ones(len(events), dtype=np.bool_)
        begins[1:] = (events.row[1:] != events.row[:-1]) | (np.diff(events.event_us) > over.gap_us)
        since = np.maximum.accumulate(np.where(begins, np.arange(len(events)), 0))
        newest = np.maximum(high - 1, 0)
        is_open = (low < high) & (spine_us - events.event_us[newest] <= over.gap_us)
        return np.where(is_open, np.maximum(low, since[newest]), high), high
    return low, high


def _faded_in_rows(output: Output, tiles: Tiles, present: Ints, moments_us: Ints) -> dict[str, State]:
    """The sums that fade, of the rows at their moment."""
    out: dict[str, State] = {}
    for name in output.aggregate.faded:
        sums = TileSums(tiles.row, tiles.tile, exact.to_floats(tiles.states[name]["digits"], 1))

        def sums_of(some: Ints, tile: Ints, sums: TileSums = sums) -> npt.NDArray[np.float64]:
            return sums(present[some], tile)

        out[name] = {"value": _faded(output, sums_of, moments_us)}
    return out


def _faded_in_events(
    output: Output,
    partial: Partial,
    lifted: State,
    events: Events,
    place: _Places,
    spine_row: Ints,
    spine_us: Ints,
) -> State:
    """The same from events: whole tiles, but of the newest one only what came before the moment."""
    if not len(spine_us):
        return {"value": np.zeros(0)}
    tiling = output.window.tiling
    tile, newest_tile = tiling.tile_of(events.event_us), tiling.tile_of(spine_us)
    starts = np.flatnonzero(np.concatenate(([True], (events.row[1:] != events.row[:-1]) | (tile[1:] != tile[:-1]))))
    whole = exact.to_floats(partial.merge(lifted, starts)["digits"], 1)
    sums = TileSums(events.row[starts], tile[starts], whole)
    low, high = place.at_or_after(spine_row, tiling.start_us(newest_tile)), place.after(spine_row, spine_us)
    some = np.flatnonzero(low < high)
    head = np.zeros(len(spine_us))
    if len(some):
        head[some] = exact.to_floats(partial.over(lifted, low[some], high[some])["digits"], 1)

    def sums_of(chosen: Ints, asked: Ints) -> npt.NDArray[np.float64]:
        return np.where(asked == newest_tile[chosen], head[chosen], sums(spine_row[chosen], asked))

    return {"value": _faded(output, sums_of, spine_us)}


def _faded(
    output: Output, sums_of: Callable[[Ints, Ints], npt.NDArray[np.float64]], moments_us: Ints
) -> npt.NDArray[np.float64]:
    over = output.window
    first, end = over.first_tile(moments_us), over.tiling.tile_of(moments_us) + 1

    def ends_us(tile: Ints) -> Ints:
        return over.tiling.start_us(tile + 1)

    return faded(first, end, sums_of, ends_us, moments_us, output.aggregate.half_life_us)


class _Places:
    """Where a moment of an entity falls among events sorted by entity and time."""

    def __init__(self, events: Events) -> None:
        self._row, self._event_us = (np.ascontiguousarray(each) for each in (events.row, events.event_us))

    def at_or_after(self, row: Ints, moment_us: Ints) -> Ints:
        return self._places(row, moment_us, False)

    def after(self, row: Ints, moment_us: Ints, run: Run = in_turn) -> Ints:
        return self._places(row, moment_us, True, run)

    def _places(self, row: Ints, moment_us: Ints, after: bool, run: Run = in_turn) -> Ints:
        from featurestore.kernel.loops.ranges import places

        out: Ints = room(len(row))
        half = len(row) // 2
        asked = [np.ascontiguousarray(each, dtype=np.int64) for each in (row, moment_us)]
        halves = [slice(half), slice(half, None)] if run is not in_turn else [slice(None)]
        run(
            [
                functools.partial(places, self._row, self._event_us, *(each[part] for each in asked), after, out[part])
                for part in halves
            ]
        )
        return out


def _in_calendar(values: pa.Array) -> pa.Array:
    """The same, null for moments after the year 9999, which none who asks could say.

    Rows and logs of before may hold some: texts with a zone once had no bound.
    """
    kind = values.type
    if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
        held = values.values
        inner = _in_calendar(held)
        if inner is held:
            return values
        # Length, offsets and nulls of the lists are as they were.
        return pa.Array.from_buffers(kind, len(values), values.buffers()[:2], offset=values.offset, children=[inner])
    if not pa.types.is_timestamp(kind):
        return values
    is_late = pc.greater(values.cast(pa.int64()), MOMENT_MAX_US)
    return pc.if_else(is_late, None, values) if pc.any(is_late).as_py() else values


def _finished(output: Output, present: Ints, states: Mapping[str, State], moments_us: Ints) -> pa.Array:
    """The finished values of the present rows among all rows: elsewhere a count is 0, the rest null."""
    done = output.aggregate.finish(states, Span(moments_us[present]))
    count, dtype = len(moments_us), output.aggregate.dtype
    if dtype == "string" or not is_single(dtype):
        found: list[Any] = [None] * count
        for place, value, held in zip(present.tolist(), done.values, done.valid, strict=True):
            if held:
                found[place] = value.decode() if dtype == "string" else value
        return pa.array(found, arrow_type(dtype))
    decimals = decimal_type(dtype)
    if decimals is not None:
        words, held = np.zeros((count, 2), dtype=np.int64), np.zeros(count, dtype=np.bool_)
        words[present], held[present] = words_of(done.values), done.valid
        return decimal_array(words, held, decimals)
    kind = np.bool_ if dtype == "bool" else np.float64 if dtype == "float64" else np.int64
    if len(present) == count:
        valid, values = done.valid, np.ascontiguousarray(done.values, dtype=kind)
    else:
        valid, values = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=kind)
        valid[present], values[present] = done.valid, done.values
    if output.aggregate.zero_when_empty or valid.all():
        nulls = None
    else:
        nulls = pa.py_buffer(np.packbits(valid, bitorder="little"))
        values = np.where(valid, values, kind(0))
    stored = np.packbits(values.astype(np.bool_), bitorder="little") if dtype == "bool" else values
    return pa.Array.from_buffers(arrow_type(dtype), count, [nulls, pa.py_buffer(stored)])
