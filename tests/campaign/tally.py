"""The oracle of the soak: the same contract as `oracle.py`, counted as acknowledgements come, in bounded memory.

Hours at full rate are too many events to keep, so only parts are: of all time, and of each tile of each window. Sums
are whole numbers of the smallest float; nothing is rounded before the end. It is asked about moments from the newest
event on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.campaign.oracle import FUTURE_US, Contract, Output, View

_ULP = 1 << 1074
# Tiles that no window of a later moment can reach are dropped once there are so many times more than it needs.
_TILES_FACTOR = 4
Order = tuple[int, int, int]


@dataclass(slots=True)
class Part:
    """What one output needs of one stretch of time."""

    count: int = 0
    total: int = 0
    least: Any = None
    most: Any = None
    last: Any = None
    order: Order = (-1, -1, -1)

    def add(self, order: Order, value: Any) -> None:
        self.count += 1
        if value is None or isinstance(value, str):
            self._keep_last(order, value)
            return
        upper, lower = value.as_integer_ratio()
        self.total += upper * (_ULP // lower) if isinstance(value, float) else value
        self.least = value if self.least is None or value < self.least else self.least
        self.most = value if self.most is None or value > self.most else self.most
        self._keep_last(order, value)

    def merge(self, other: Part) -> None:
        self.count += other.count
        self.total += other.total
        for name, choose in (("least", min), ("most", max)):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs if mine is None else mine if theirs is None else choose(mine, theirs))
        self._keep_last(other.order, other.last)

    def _keep_last(self, order: Order, value: Any) -> None:
        if order > self.order:
            self.order, self.last = order, value


@dataclass(slots=True)
class _Entity:
    parts: dict[str, dict[int, Part]] = field(default_factory=lambda: defaultdict(dict))


class Tally:
    """Counts acknowledged events; every record keeps the contract, times are what is tried."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._entities: dict[str, dict[str, _Entity]] = {view.name: defaultdict(_Entity) for view in contract.views}
        self._newest_us: dict[int, int] = defaultdict(int)
        self._patience_us = max(view.lateness_us for view in contract.views)
        self.ends: dict[int, int] = defaultdict(int)
        self.records = self.logged = self.dead = 0

    @property
    def newest_us(self) -> int:
        return max(self._newest_us.values(), default=0)

    def add(self, partition: int, offset: int, stamp_ms: int, values: dict[str, Any]) -> None:
        """The next acknowledged record of its partition; they come in offset order."""
        assert offset >= self.ends[partition], "acknowledgements of a partition come in order"
        self.ends[partition], self.records = offset + 1, self.records + 1
        arrival_us, event_us = stamp_ms * 1_000 + 999, values[self._contract.event_time]
        if event_us - arrival_us > FUTURE_US:
            self.dead += 1
            return
        effective_us = min(event_us, arrival_us)
        late_by_us = self._newest_us[partition] - effective_us
        self._newest_us[partition] = max(self._newest_us[partition], effective_us)
        self.logged += 1
        self.dead += late_by_us > self._patience_us
        for view in self._contract.views:
            if late_by_us <= view.lateness_us and values[view.key] is not None:
                entity = self._entities[view.name][values[view.key]]
                self._count(entity, view, (effective_us, partition, offset), values)

    def entities(self, view: View) -> list[str]:
        return sorted(self._entities[view.name])

    def value(self, view: View, name: str, feature: str, moment_us: int) -> Any:
        """One value at a moment that is not before the newest event."""
        output = view.outputs[feature]
        tiles = self._entities[view.name][name].parts.get(feature, {}) if name in self._entities[view.name] else {}
        found = Part()
        first = 0 if output.window_us is None else (moment_us - output.window_us) // output.slide_us
        for tile, part in tiles.items():
            if tile >= first:
                found.merge(part)
        if output.function == "count":
            return found.count
        return _finished(output, found) if found.count else None

    def _count(self, entity: _Entity, view: View, order: Order, values: dict[str, Any]) -> None:
        for feature, output in view.outputs.items():
            value = None if output.column is None else values[output.column]
            if output.column is not None and value is None:
                continue
            tiles = entity.parts[feature]
            tile = 0 if output.window_us is None else order[0] // output.slide_us
            part = tiles.get(tile)
            if part is None:
                part = tiles[tile] = Part()
                if output.window_us is not None and len(tiles) > _TILES_FACTOR * (output.window_us // output.slide_us):
                    self._drop(tiles, output)
            part.add(order, value)

    def _drop(self, tiles: dict[int, Part], output: Output) -> None:
        assert output.window_us is not None
        # What the newest moment cannot reach, no later one can.
        first = (self.newest_us - output.window_us) // output.slide_us
        for tile in [tile for tile in tiles if tile < first]:
            del tiles[tile]


def _finished(output: Output, part: Part) -> Any:
    match output.function:
        case "sum" if output.column == "cents":
            return part.total if -(1 << 63) <= part.total < 1 << 63 else None
        case "sum":
            return float(Fraction(part.total, _ULP))
        case "min":
            return part.least + 0.0 if isinstance(part.least, float) else part.least
        case "max":
            return part.most + 0.0 if isinstance(part.most, float) else part.most
        case _:
            return part.last
