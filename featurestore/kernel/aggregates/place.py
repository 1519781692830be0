"""Where the log keeps an event: what orders events of one time, in tiles of single events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.partial import Field, Ints, State, concat, rungless
from featurestore.kernel.events import Events


@dataclass(frozen=True, slots=True)
class PlacePartial:
    """Partition and offset of a tile's one event; there is nothing to merge."""

    name: str = "@place"
    columns: tuple[str, ...] = ()
    has_rung: bool = False
    has_heap: bool = False

    def fields(self, rung: int) -> tuple[Field, ...]:
        return (Field("offset", "<i8"), Field("partition", "<i4"))

    def lift(self, events: Events) -> State:
        return {"offset": events.offset, "partition": events.partition.astype(np.int32)}

    def concat(self, states: Sequence[State]) -> State:
        return concat(states)

    def merge(self, state: State, starts: Ints) -> State:
        assert len(starts) == len(state["offset"]), "tiles of single events are never merged"
        return state

    def over(self, state: State, low: Ints, high: Ints) -> State:
        raise AssertionError("no feature is finished from places")

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return rungless(state)

    def store(self, state: State, rung: int) -> State:
        return state

    def load(self, stored: State, rung: int) -> State:
        return stored
