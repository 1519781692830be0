"""The first or last value of a column, by (event time, partition, offset)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.compiled import Ask, Builder, Compiled, Finished, Span, given
from featurestore.kernel.aggregates.partial import Field, Ints, State, concat, rungless, take
from featurestore.kernel.events import DataType, Events, family

_STORED = {"float64": "<f8", "int64": "<i8", "timestamp": "<i8", "decimal": "<i8", "bool": "<u4", "string": "<u4"}


@dataclass(frozen=True, slots=True)
class OrderPartial:
    """The oldest or newest value that is not null, with what decides ties.

    Where there is none, its event time is the far end of int64: after everything for the first, before it for the last.
    """

    column: str
    dtype: DataType
    which: Literal["first", "last"]
    has_rung: bool = False

    @property
    def name(self) -> str:
        return f"{self.which}({self.column})"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def has_heap(self) -> bool:
        return self.dtype == "string"

    def fields(self, rung: int) -> tuple[Field, ...]:
        # A string's record keeps its length; the bytes follow after the records.
        return (
            Field("event_us", "<i8"),
            Field("offset", "<i8"),
            Field("partition", "<i4"),
            Field("value", _STORED[family(self.dtype)]),
        )

    def lift(self, events: Events) -> State:
        column = events.columns[self.column]
        event_us = events.event_us if column.valid is None else np.where(column.valid, events.event_us, self._none())
        return {
            "event_us": event_us,
            "offset": events.offset,
            "partition": events.partition,
            "value": column.values,
        }

    def concat(self, states: Sequence[State]) -> State:
        return concat(states)

    def merge(self, state: State, starts: Ints) -> State:
        total = len(state["event_us"])
        run = np.zeros(total, dtype=np.int64)
        run[starts[1:]] = 1
        order = np.lexsort((state["offset"], state["partition"], state["event_us"], np.cumsum(run)))
        edge = starts if self.which == "first" else np.append(starts[1:], total) - 1
        return take(state, order[edge])

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """Events are in order, so the nearest one that has a value is the answer, if it lies in the range."""
        there = self.held(state)
        places, total = np.arange(len(there)), len(there)
        if self.which == "last":
            edge = np.maximum.accumulate(np.where(there, places, -1))[high - 1]
            inside = edge >= low
        else:
            edge = np.minimum.accumulate(np.where(there, places, total)[::-1])[::-1][low]
            inside = edge < high
        out = take(state, np.clip(edge, 0, total - 1))
        out["event_us"] = np.where(inside, out["event_us"], self._none())
        return out

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return rungless(state)

    def store(self, state: State, rung: int) -> State:
        return state

    def load(self, stored: State, rung: int) -> State:
        return {**stored, "value": stored["value"].astype(np.bool_)} if self.dtype == "bool" else stored

    def held(self, state: State) -> npt.NDArray[np.bool_]:
        """Where there is a value at all."""
        found: npt.NDArray[np.bool_] = state["event_us"] != self._none()
        return found

    def _none(self) -> int:
        info = np.iinfo(np.int64)
        return int(info.max if self.which == "first" else info.min)


def edge(which: Literal["first", "last"]) -> Builder:
    def build(ask: Ask) -> Compiled:
        column = given(ask.column)
        found = OrderPartial(column.name, column.dtype, which)

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            return Finished(states[found.name]["value"], found.held(states[found.name]))

        return Compiled((found,), column.dtype, finish)

    return build
