"""Columns made from an event before anything is counted: added columns, filtered ones, decayed ones.

Enter: events with the columns of their topic. Leave: events with every column that the plan's partials read. Promise:
each is made from its event alone, so the worker and the join make the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from featurestore.kernel.decay import weights
from featurestore.kernel.decimals import floats_of, scale_of
from featurestore.kernel.events import Column, DataType, Events
from featurestore.kernel.expressions import Expression, evaluate, from_arrow, to_arrow
from featurestore.kernel.tilings import Tiling

# Event time as a column like any other.
TIME = "@time"
# One an event: what counts and weights are made of.
ONES = "@one"


@dataclass(frozen=True, slots=True)
class Decay:
    """Values fade by half every half-life; inside a tile they are weighed for the moment at which the tile ends."""

    half_life_us: int
    tiling: Tiling


@dataclass(frozen=True, slots=True)
class Prepared:
    """A column made from another one.

    where     only events for which this is true; elsewhere the value is null
    partner   only events in which this column has a value as well
    """

    name: str
    source: str
    where: Expression | None = None
    partner: str | None = None
    decay: Decay | None = None


@dataclass(frozen=True, slots=True)
class Preparation:
    """All that is made of an event for one view.

    types   of the topic's columns
    added   columns that the view adds by expressions over the topic's
    """

    types: Mapping[str, DataType]
    added: Mapping[str, Expression]
    prepared: tuple[Prepared, ...]
    plain: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The topic's columns that are needed."""
        needed = {*self.plain, *(column for each in self.added.values() for column in each.columns)}
        needed.update(column for each in self.prepared if each.where for column in each.where.columns)
        needed.update(name for each in self.prepared for name in (each.source, each.partner) if name)
        return tuple(sorted(needed & set(self.types)))

    def __call__(self, events: Events) -> Events:
        if not self.prepared and not self.added and not {TIME, ONES} & set(self.plain):
            return events
        count = len(events)
        columns = {
            **events.columns,
            TIME: Column(events.event_us),
            ONES: Column(np.ones(count, dtype=np.int64)),
        }
        arrow = {name: to_arrow(events.columns[name], self.types[name]) for name in self._read_by_expressions()}
        for name, array in evaluate(self.added, arrow).items() if self.added else ():
            arrow[name] = array
            columns[name] = from_arrow(array, self.added[name].dtype)
        wheres = {each.where.said: each.where for each in self.prepared if each.where is not None}
        truths = {text: _true(array) for text, array in evaluate(wheres, arrow).items()} if wheres else {}
        for each in self.prepared:
            columns[each.name] = _made(each, columns, events.event_us, truths, self._scale_of(each.source))
        return replace(events, columns=columns)

    def _scale_of(self, column: str) -> int:
        return scale_of(self.added[column].dtype if column in self.added else self.types.get(column, "int64"))

    def _read_by_expressions(self) -> Sequence[str]:
        read = {column for each in self.added.values() for column in each.columns}
        read.update(column for each in self.prepared if each.where for column in each.where.columns)
        return sorted(read & set(self.types))


def _made(
    each: Prepared,
    columns: Mapping[str, Column],
    event_us: npt.NDArray[np.int64],
    truths: Mapping[str, npt.NDArray[np.bool_]],
    scale: int,
) -> Column:
    source = columns[each.source]
    masks = [] if source.valid is None else [source.valid]
    if each.where is not None:
        masks.append(truths[each.where.said])
    if each.partner is not None and (partner := columns[each.partner].valid) is not None:
        masks.append(partner)
    valid = np.logical_and.reduce(masks) if masks else None
    if each.decay is None:
        return Column(source.values, valid)
    ends = each.decay.tiling.start_us(each.decay.tiling.tile_of(event_us) + 1)
    values = floats_of(source.values, scale) if scale else source.values
    return Column(values * weights(event_us - ends, each.decay.half_life_us), valid)


def _true(truths: object) -> npt.NDArray[np.bool_]:
    held: npt.NDArray[np.bool_] = truths.fill_null(False).to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    return held
