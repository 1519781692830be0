"""The three uses of the kernel: fold a batch into rows, roll rows up at a moment, values at any past moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernel.aggregates.partial import Span, State, take
from featurestore.kernel.events import DataType, Events
from featurestore.kernel.plan import Output, Plan
from featurestore.kernel.rows import Rows, decode, encode
from featurestore.kernel.tiles import merged, rolled_up, tiles_from, unexpired

Ints = npt.NDArray[np.int64]

ARROW_TYPES: dict[DataType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def fold(payloads: Sequence[bytes | None], events: Events, plan: Plan) -> list[bytes]:
    """The rows with the events counted in; `events.row` points into `payloads`, which are left as they were."""
    rows = decode(payloads, plan)
    ordered = events.sorted()
    newest_us = rows.newest_us.copy()
    np.maximum.at(newest_us, ordered.row, ordered.event_us)
    levels = tuple(
        unexpired(merged([tiles, tiles_from(ordered, level)], level), level, newest_us)
        for tiles, level in zip(rows.levels, plan.levels, strict=True)
    )
    return encode(Rows(levels, newest_us), plan)


def roll_up(payloads: Sequence[bytes | None], moment_us: int, plan: Plan) -> dict[str, pa.Array]:
    """Every output's value at the moment, one a payload; an absent row is an entity without events."""
    rows = decode(payloads, plan)
    out = {}
    spans: dict[tuple[int, int], tuple[Ints, Mapping[str, State]]] = {}
    for output in plan.outputs:
        index = plan.level_of(output)
        key = (index, output.window.size_us or 0)
        if key not in spans:
            tiles = rolled_up(rows.levels[index], plan.levels[index], output.window, moment_us)
            spans[key] = (tiles.row, tiles.states)
        out[output.name] = _finished(output, *spans[key], np.full(len(payloads), moment_us))
    return out


def newest_event_us(payloads: Sequence[bytes | None], plan: Plan) -> list[int | None]:
    """The newest event time that each row includes, for its age; None without events."""
    nothing = np.iinfo(np.int64).min
    return [None if newest == nothing else int(newest) for newest in decode(payloads, plan).newest_us]


def values_at(
    events: Events, spine_row: npt.NDArray[np.int64], spine_us: npt.NDArray[np.int64], plan: Plan
) -> dict[str, pa.Array]:
    """Every output's value for each (entity, moment) of a spine, from the events themselves.

    events     (n) any order
    spine_row  (m) and spine_us (m): index of the entity as in `events.row`, and the moment, in any order
    returns    output name -> (m) values in spine order
    """
    ordered = events.sorted()
    place = _Places(ordered)
    high = place.after(spine_row, spine_us)
    lifted = {partial.name: (partial, partial.lift(ordered)) for level in plan.levels for partial in level.partials}
    out = {}
    spans: dict[tuple[int | None, int | None], tuple[Ints, dict[str, State]]] = {}
    for output in plan.outputs:
        key = (output.window.size_us, output.window.slide_us)
        if key not in spans:
            low = place.at_or_after(spine_row, output.window.start_us(spine_us))
            some = np.flatnonzero(low < high)
            level = plan.levels[plan.level_of(output)]
            states = {}
            for partial in level.partials:
                if len(some):
                    states[partial.name] = partial.over(lifted[partial.name][1], low[some], high[some])
                else:
                    states[partial.name] = take(lifted[partial.name][1], some)
            spans[key] = (some, states)
        out[output.name] = _finished(output, *spans[key], spine_us)
    return out


class _Places:
    """Where a moment of an entity falls among events sorted by entity and time."""

    def __init__(self, events: Events) -> None:
        # Times become ranks, so that (entity, time) fits one sortable integer without overflow.
        self._times = np.unique(events.event_us)
        self._step = len(self._times) + 1
        self._keys = events.row * self._step + np.searchsorted(self._times, events.event_us)

    def at_or_after(self, row: Ints, moment_us: Ints) -> Ints:
        return np.searchsorted(self._keys, row * self._step + np.searchsorted(self._times, moment_us))

    def after(self, row: Ints, moment_us: Ints) -> Ints:
        rank = np.searchsorted(self._times, moment_us, side="right")
        return np.searchsorted(self._keys, row * self._step + rank)


def _finished(output: Output, present: Ints, states: Mapping[str, State], moments_us: Ints) -> pa.Array:
    """The finished values of the present rows among all rows: elsewhere a count is 0, the rest null."""
    done = output.aggregate.finish(states, Span(moments_us[present], output.window.size_us))
    count = len(moments_us)
    dtype = output.aggregate.dtype
    valid = np.zeros(count, dtype=np.bool_)
    valid[present] = done.valid
    if dtype == "string":
        texts: list[str | None] = [None] * count
        for place, value, held in zip(present.tolist(), done.values, done.valid, strict=True):
            texts[place] = value.decode() if held else None
        return pa.array(texts, pa.string())
    values = np.zeros(count, dtype=np.bool_ if dtype == "bool" else np.float64 if dtype == "float64" else np.int64)
    values[present] = np.where(done.valid, done.values, values.dtype.type(0))
    if output.aggregate.zero_when_empty:
        return pa.array(values)
    if dtype == "timestamp":
        return pa.array(values.view("datetime64[us]"), mask=~valid).cast(ARROW_TYPES[dtype])
    return pa.array(values, type=ARROW_TYPES[dtype], mask=~valid)
