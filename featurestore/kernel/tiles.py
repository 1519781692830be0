"""Tiles: the partials of one entity over one fixed slice of event time, many at once.

Folding a batch, joining it to stored tiles, and merging the tiles of a window are one operation here:
put tiles in order, find where runs of equal (entity, tile) begin, merge each run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.partial import State, take
from featurestore.kernel.events import Events
from featurestore.kernel.plan import FIRST_TIME, LAST_TIME, PLACE, Level
from featurestore.kernel.tilings import Single
from featurestore.kernel.windows import Newest, Session, Window

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of one level.

    row     (n) index of the entity
    tile    (n) number of the tile, as the level's tiling counts them
    states  partial name -> arrays over the n tiles
    """

    row: Ints
    tile: Ints
    states: Mapping[str, State]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Tiles:
        return Tiles(
            self.row[index], self.tile[index], {name: take(state, index) for name, state in self.states.items()}
        )


def tiles_from(events: Events, level: Level) -> Tiles:
    """The tiles of a batch whose events are sorted by entity and time."""
    if not len(events):
        return tiles_none(level)
    tile = level.tiling.tile_of(events.event_us)
    starts = _run_starts(events.row, tile, level)
    states = {partial.name: partial.merge(partial.lift(events), starts) for partial in level.partials}
    return Tiles(events.row[starts], tile[starts], states)


def merged(parts: Sequence[Tiles], level: Level) -> Tiles:
    """All tiles of the parts, one for each (entity, tile), in that order; single events stay single."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return parts[0] if parts else tiles_none(level)
    row, tile = (np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "tile"))
    if isinstance(level.tiling, Single):
        places = PLACE.concat([part.states[PLACE.name] for part in parts])
        order = np.lexsort((places["offset"], places["partition"], tile, row))
    else:
        order = np.lexsort((tile, row))
    row, tile = row[order], tile[order]
    starts = _run_starts(row, tile, level)
    states = {}
    for partial in level.partials:
        together = partial.concat([part.states[partial.name] for part in parts])
        states[partial.name] = partial.merge(take(together, order), starts)
    return Tiles(row[starts], tile[starts], states)


def tiles_none(level: Level) -> Tiles:
    """No tiles at all, with the arrays that this level has."""
    nothing = np.zeros(0, dtype=np.int64)
    states = {}
    for partial in level.partials:
        rung = 1 if partial.has_rung else 0
        stored = {
            field.name: np.zeros((0, field.count) if field.count > 1 else 0, dtype=field.dtype)
            for field in partial.fields(rung)
        }
        states[partial.name] = partial.load(stored, rung)
    return Tiles(nothing, nothing, states)


def unexpired(tiles: Tiles, level: Level, newest_us: Ints) -> Tiles:
    """Without the tiles that no window can reach any more.

    newest_us  (rows) newest event of each entity: no moment before it will be asked for, so a tile that the
               windows which end there do not reach is out of reach for good
    """
    if isinstance(level.tiling, Single):
        return _newest(tiles, max(over.events for over in level.windows if isinstance(over, Newest)))
    oldest = np.minimum.reduce([over.first_tile(newest_us) for over in level.windows])
    return tiles.take(tiles.tile >= oldest[tiles.row])


def inside(tiles: Tiles, over: Window, moment_us: int) -> Tiles:
    """The tiles that the window covers at the moment."""
    moment = np.array([moment_us], dtype=np.int64)
    if isinstance(over, Newest):
        return _newest(tiles, over.events)
    covered = tiles.tile >= over.first_tile(moment)[0]
    end = over.end_tile(moment)
    if end is not None:
        covered &= tiles.tile < end[0]
    chosen = tiles.take(covered)
    return _session(chosen, over, moment_us) if isinstance(over, Session) else chosen


def rolled_up(tiles: Tiles, level: Level, over: Window, moment_us: int) -> Tiles:
    """For each entity with a tile in the window that ends at the moment: their merge, as one tile."""
    chosen = inside(tiles, over, moment_us)
    if not len(chosen):
        return chosen
    starts = np.flatnonzero(np.concatenate(([True], chosen.row[1:] != chosen.row[:-1])))
    # Places are not merged: no feature is finished from them.
    merging = [partial for partial in level.partials if partial != PLACE]
    states = {partial.name: partial.merge(chosen.states[partial.name], starts) for partial in merging}
    return Tiles(chosen.row[starts], chosen.tile[starts], states)


def _newest(tiles: Tiles, events: int) -> Tiles:
    """The last `events` tiles of each entity."""
    ends = np.searchsorted(tiles.row, tiles.row, side="right")
    return tiles.take(np.arange(len(tiles)) >= ends - events)


def _session(tiles: Tiles, over: Session, moment_us: int) -> Tiles:
    """The tiles since each entity's last pause; none where the pause lasts at the moment."""
    if not len(tiles):
        return tiles
    first_us, last_us = (tiles.states[edge.name]["value"] for edge in (FIRST_TIME, LAST_TIME))
    begins = np.ones(len(tiles), dtype=np.bool_)
    begins[1:] = (tiles.row[1:] != tiles.row[:-1]) | (first_us[1:] - last_us[:-1] > over.gap_us)
    # The last beginning of an entity is the one whose number its last tile has.
    number = np.cumsum(begins)
    ends = np.searchsorted(tiles.row, tiles.row, side="right") - 1
    return tiles.take((number == number[ends]) & (moment_us - last_us[ends] <= over.gap_us))


def _run_starts(row: Ints, tile: Ints, level: Level) -> Ints:
    if not len(row):
        return np.zeros(0, dtype=np.int64)
    if isinstance(level.tiling, Single):
        return np.arange(len(row))
    changes = (row[1:] != row[:-1]) | (tile[1:] != tile[:-1])
    return np.concatenate(([0], np.flatnonzero(changes) + 1))
