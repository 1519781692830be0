"""Sums of numbers and of their products, as exact integers: all that moments are finished from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.kernel import exact
from featurestore.kernel.aggregates.partial import Array, Field, Input, Ints, State
from featurestore.kernel.events import Column, DataType, Events


@dataclass(frozen=True, slots=True)
class SumPartial:
    """Sum of a column, or of its squares, cubes or fourth powers."""

    column: str
    dtype: DataType
    power: int = 1
    has_heap: bool = False

    @property
    def name(self) -> str:
        return f"sum({self.column})" if self.power == 1 else f"sum({self.column}^{self.power})"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def has_rung(self) -> bool:
        return self.dtype == "float64"

    def fields(self, rung: int) -> tuple[Field, ...]:
        return (Field("digits", "<u4", exact.width(rung, self.power)),)

    def lift(self, events: Events) -> State:
        values = _filled(events.columns[self.column])
        if self.dtype == "float64":
            return {"digits": exact.lift_floats(values.astype(np.float64), self.power)}
        return {"digits": exact.lift_ints(values.astype(np.int64), self.power)}

    def concat(self, states: Sequence[State]) -> State:
        return _concat(states, self.power)

    def merge(self, state: State, starts: Ints) -> State:
        return _merge(state, starts)

    def over(self, state: State, low: Ints, high: Ints) -> State:
        return _over(state, low, high)

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return exact.narrowest(state["digits"], self.power)

    def store(self, state: State, rung: int) -> State:
        return _store(state, rung, self.power)

    def load(self, stored: State, rung: int) -> State:
        return _load(stored)


@dataclass(frozen=True, slots=True)
class ProductPartial:
    """Sum of the products of two columns, where both have a value."""

    left: Input
    right: Input
    has_heap: bool = False

    @property
    def name(self) -> str:
        return f"sum({self.left.name}*{self.right.name})"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.left.name, self.right.name)

    @property
    def has_rung(self) -> bool:
        return "float64" in (self.left.dtype, self.right.dtype)

    def fields(self, rung: int) -> tuple[Field, ...]:
        return (Field("digits", "<u4", exact.width(rung, 2)),)

    def lift(self, events: Events) -> State:
        return {"digits": exact.products([self._factors(events, self.left), self._factors(events, self.right)])}

    def concat(self, states: Sequence[State]) -> State:
        return _concat(states, 2)

    def merge(self, state: State, starts: Ints) -> State:
        return _merge(state, starts)

    def over(self, state: State, low: Ints, high: Ints) -> State:
        return _over(state, low, high)

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return exact.narrowest(state["digits"], 2)

    def store(self, state: State, rung: int) -> State:
        return _store(state, rung, 2)

    def load(self, stored: State, rung: int) -> State:
        return _load(stored)

    @staticmethod
    def _factors(events: Events, column: Input) -> exact.Factors:
        values = _filled(events.columns[column.name])
        if column.dtype == "float64":
            return exact.float_factors(values.astype(np.float64))
        return exact.int_factors(values.astype(np.int64))


def _filled(column: Column) -> Array:
    return column.values if column.valid is None else np.where(column.valid, column.values, 0)


def _concat(states: Sequence[State], power: int) -> State:
    rung = max(exact.rung_of(state["digits"], power) for state in states)
    return {"digits": np.concatenate([exact.aligned(state["digits"], rung, power) for state in states])}


def _merge(state: State, starts: Ints) -> State:
    return {"digits": exact.carried(np.add.reduceat(state["digits"], starts, axis=0))}


def _over(state: State, low: Ints, high: Ints) -> State:
    digits = state["digits"]
    # Digits are under 2**32 and a bucket has under 2**31 events: the prefix cannot overflow.
    prefix = np.zeros((len(digits) + 1, digits.shape[1]), dtype=np.int64)
    np.cumsum(digits, axis=0, out=prefix[1:])
    return {"digits": prefix[high] - prefix[low]}


def _store(state: State, rung: int, power: int) -> State:
    digits = exact.aligned(state["digits"], max(rung, exact.rung_of(state["digits"], power)), power)
    return {"digits": exact.narrowed(exact.carried(digits), rung, power)}


def _load(stored: State) -> State:
    digits = stored["digits"].astype(np.int64)
    # The top digit alone is signed.
    digits[:, -1] = stored["digits"][:, -1].astype(np.uint32).view(np.int32)
    return {"digits": digits}
