"""Minimum and maximum of numbers and time stamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.partial import Array, Field, Ints, State, concat
from featurestore.kernel.events import DataType, Events


@dataclass(frozen=True, slots=True)
class ExtremePartial:
    """The smallest or largest value of a column, or (column None) event time; the far end where there is none."""

    column: str | None
    dtype: DataType
    which: Literal["min", "max"]
    has_rung: bool = False
    has_heap: bool = False

    @property
    def name(self) -> str:
        return f"{self.which}({self.column or '@time'})"

    def fields(self, rung: int) -> tuple[Field, ...]:
        return (Field("value", "<f8" if self.dtype == "float64" else "<i8"),)

    def lift(self, events: Events) -> State:
        if self.column is None:
            return {"value": events.event_us}
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
        return np.zeros(len(state["value"]), dtype=np.uint8)

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
