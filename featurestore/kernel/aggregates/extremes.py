"""Minimum and maximum of numbers and time stamps; of event time: the silence since, and the gaps between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from featurestore.event_time import SECOND_US
from featurestore.kernel.aggregates.compiled import Ask, Builder, Compiled, Finished, Span, given
from featurestore.kernel.aggregates.counting import CountPartial, counter_of
from featurestore.kernel.aggregates.partial import Array, Field, Ints, State, concat, rungless
from featurestore.kernel.events import DataType, Events

_FLOAT_WHOLE_MAX = 2**53


@dataclass(frozen=True, slots=True)
class ExtremePartial:
    """The smallest or largest value of a column; the far end where there is none."""

    column: str
    dtype: DataType
    which: Literal["min", "max"]
    has_rung: bool = False
    has_heap: bool = False

    @property
    def name(self) -> str:
        return f"{self.which}({self.column})"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def fields(self, rung: int) -> tuple[Field, ...]:
        return (Field("value", "<f8" if self.dtype == "float64" else "<i8"),)

    def lift(self, events: Events) -> State:
        column = events.columns[self.column]
        # Adding zero turns -0.0 into 0.0: which of the two came first may not show.
        values = column.values + 0.0 if self.dtype == "float64" else column.values.astype(np.int64)
        return {"value": values if column.valid is None else np.where(column.valid, values, self._empty())}

    def concat(self, states: Sequence[State]) -> State:
        return concat(states)

    def merge(self, state: State, starts: Ints) -> State:
        return {"value": self._ufunc().reduceat(state["value"], starts)}

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """Sparse table: the extreme of 2**k neighbours for rising k, two overlapping blocks a range."""
        table: Array = state["value"]
        out = np.empty(len(low), dtype=table.dtype)
        level_of = np.frexp((high - low).astype(np.float64))[1] - 1
        for level in range(int(level_of.max(initial=0)) + 1):
            asked = np.flatnonzero(level_of == level)
            out[asked] = self._ufunc()(table[low[asked]], table[high[asked] - (1 << level)])
            if len(table) > 1 << level:
                table = self._ufunc()(table[: -(1 << level)], table[1 << level :])
        return {"value": out}

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return rungless(state)

    def store(self, state: State, rung: int) -> State:
        return state

    def load(self, stored: State, rung: int) -> State:
        return {"value": stored["value"]}

    def _ufunc(self) -> np.ufunc:
        return np.minimum if self.which == "min" else np.maximum

    def _empty(self) -> float | int:
        if self.dtype == "float64":
            return np.inf if self.which == "min" else -np.inf
        info = np.iinfo(np.int64)
        return int(info.max if self.which == "min" else info.min)


def extreme(which: Literal["min", "max"]) -> Builder:
    def build(ask: Ask) -> Compiled:
        column = given(ask.column)
        counter, found = counter_of(column), ExtremePartial(column.name, column.dtype, which)

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            return Finished(states[found.name]["value"], states[counter.name]["count"] > 0)

        return Compiled((counter, found), column.dtype, finish, plain=which)

    return build


def since_last(ask: Ask) -> Compiled:
    counter, newest = _events(ask), ExtremePartial(ask.time.name, "timestamp", "max")

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        some = states[counter.name]["count"] > 0
        gone_us = span.moments_us - np.where(some, states[newest.name]["value"], span.moments_us)
        return Finished(_seconds(gone_us, np.ones_like(gone_us)), some)

    return Compiled((counter, newest), "float64", finish)


def gap_mean(ask: Ask) -> Compiled:
    counter = _events(ask)
    oldest, newest = (ExtremePartial(ask.time.name, "timestamp", which) for which in ("min", "max"))

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        gaps = states[counter.name]["count"] - 1
        across_us = np.where(gaps > 0, states[newest.name]["value"], 0) - np.where(
            gaps > 0, states[oldest.name]["value"], 0
        )
        return Finished(_seconds(across_us, np.maximum(gaps, 1)), gaps > 0)

    return Compiled((counter, oldest, newest), "float64", finish)


def _seconds(spans_us: Ints, parts: Ints) -> npt.NDArray[np.float64]:
    """A part of each span, rounded once."""
    out: npt.NDArray[np.float64] = spans_us / (parts * float(SECOND_US))
    # A span of over 285 years is no float itself; Python divides whole numbers of any size and rounds once.
    for place in np.flatnonzero(np.abs(spans_us) > _FLOAT_WHOLE_MAX).tolist():
        out[place] = int(spans_us[place]) / (int(parts[place]) * SECOND_US)
    return out


def _events(ask: Ask) -> CountPartial:
    return CountPartial(None if ask.events is None else ask.events.name)
