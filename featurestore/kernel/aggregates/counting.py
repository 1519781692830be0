"""Counts: of events, or of the values of a column that are not null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.partial import Field, Ints, State, concat
from featurestore.kernel.events import Events


@dataclass(frozen=True, slots=True)
class CountPartial:
    """How many events, or how many values of `column`."""

    column: str | None = None
    has_rung: bool = False
    has_heap: bool = False

    @property
    def name(self) -> str:
        return f"count({self.column or '*'})"

    def fields(self, rung: int) -> tuple[Field, ...]:
        return (Field("count", "<u4"),)

    def lift(self, events: Events) -> State:
        valid = None if self.column is None else events.columns[self.column].valid
        return {"count": np.ones(len(events), dtype=np.int64) if valid is None else valid.astype(np.int64)}

    def concat(self, states: Sequence[State]) -> State:
        return concat(states)

    def merge(self, state: State, starts: Ints) -> State:
        return {"count": np.add.reduceat(state["count"], starts)}

    def over(self, state: State, low: Ints, high: Ints) -> State:
        prefix = np.concatenate(([0], np.cumsum(state["count"])))
        return {"count": prefix[high] - prefix[low]}

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return np.zeros(len(state["count"]), dtype=np.uint8)

    def store(self, state: State, rung: int) -> State:
        return state

    def load(self, stored: State, rung: int) -> State:
        return {"count": stored["count"].astype(np.int64)}
