"""Counts: of events, or of the values of a column that are not null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.event_time import SECOND_US
from featurestore.kernel.aggregates.compiled import Ask, Compiled, Finished, Span, always
from featurestore.kernel.aggregates.partial import Field, Input, Ints, State, concat, rungless
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

    @property
    def columns(self) -> tuple[str, ...]:
        return () if self.column is None else (self.column,)

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
        return rungless(state)

    def store(self, state: State, rung: int) -> State:
        return state

    def load(self, stored: State, rung: int) -> State:
        return {"count": stored["count"].astype(np.int64)}


def counter_of(column: Input) -> CountPartial:
    """How many values a column has: of one that is never null as many as there are events, with one counter for all."""
    return CountPartial(column.name if column.nullable else None)


def count(ask: Ask) -> Compiled:
    counter = _asked(ask)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        return always(states[counter.name]["count"])

    return Compiled((counter,), "int64", finish, zero_when_empty=True, plain="count")


def rate(ask: Ask) -> Compiled:
    counter, size_us = _asked(ask), ask.size_us

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        # One rounding: the product is a whole number below 2**53.
        return always(states[counter.name]["count"] * float(SECOND_US) / size_us)

    return Compiled((counter,), "float64", finish, zero_when_empty=True)


def _asked(ask: Ask) -> CountPartial:
    if ask.column is not None:
        return counter_of(ask.column)
    return CountPartial(None if ask.events is None else ask.events.name)
