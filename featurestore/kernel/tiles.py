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
from featurestore.kernel.plan import Level
from featurestore.kernel.windows import Window, tiles_of

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of one level.

    row     (n) index of the entity
    tile    (n) index of the tile: its start is tile * level.tile_us
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
    tile = tiles_of(events.event_us, level.tile_us)
    starts = _run_starts(events.row, tile)
    states = {partial.name: partial.merge(partial.lift(events), starts) for partial in level.partials}
    return Tiles(events.row[starts], tile[starts], states)


def merged(parts: Sequence[Tiles], level: Level) -> Tiles:
    """All tiles of the parts, one for each (entity, tile), in that order."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return parts[0] if parts else tiles_none(level)
    row, tile = (np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "tile"))
    order = np.lexsort((tile, row))
    row, tile = row[order], tile[order]
    starts = _run_starts(row, tile)
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

    newest_us  (rows) newest event of each entity: no moment before it will be asked for, so a tile before
               the longest window that ends there is out of reach for good
    """
    if level.span_us is None:
        return tiles
    oldest = Window(level.span_us, level.tile_us).first_tile(newest_us)
    return tiles.take(tiles.tile >= oldest[tiles.row])


def rolled_up(tiles: Tiles, level: Level, window: Window, moment_us: int) -> Tiles:
    """For each entity with a tile in the window that ends at the moment: their merge, as one tile."""
    first = int(window.first_tile(np.array([moment_us]))[0])
    inside = tiles.take(tiles.tile >= first)
    if not len(inside):
        return inside
    starts = _run_starts(inside.row, np.zeros(len(inside), dtype=np.int64))
    states = {partial.name: partial.merge(inside.states[partial.name], starts) for partial in level.partials}
    return Tiles(inside.row[starts], inside.tile[starts], states)


def _run_starts(row: Ints, tile: Ints) -> Ints:
    if not len(row):
        return np.zeros(0, dtype=np.int64)
    changes = (row[1:] != row[:-1]) | (tile[1:] != tile[:-1])
    return np.concatenate(([0], np.flatnonzero(changes) + 1))
