"""Sums and sums of squares, as exact integers: sum, mean, variance and standard deviation finish from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.kernel import exact
from featurestore.kernel.aggregates.partial import Field, Ints, State
from featurestore.kernel.events import DataType, Events


@dataclass(frozen=True, slots=True)
class SumPartial:
    """Sum of a column (power 1) or of its squares (power 2)."""

    column: str
    dtype: DataType
    power: int = 1
    has_heap: bool = False

    @property
    def name(self) -> str:
        return f"sum({self.column})" if self.power == 1 else f"sum({self.column}^{self.power})"

    @property
    def has_rung(self) -> bool:
        return self.dtype == "float64"

    def fields(self, rung: int) -> tuple[Field, ...]:
        return (Field("digits", "<u4", exact.width(rung, self.power)),)

    def lift(self, events: Events) -> State:
        column = events.columns[self.column]
        values = column.values if column.valid is None else np.where(column.valid, column.values, 0)
        if self.dtype == "float64":
            return {"digits": exact.lift_floats(values.astype(np.float64), self.power)}
        return {"digits": exact.lift_ints(values.astype(np.int64), self.power)}

    def concat(self, states: Sequence[State]) -> State:
        rung = max(exact.rung_of(state["digits"], self.power) for state in states)
        return {"digits": np.concatenate([exact.aligned(state["digits"], rung, self.power) for state in states])}

    def merge(self, state: State, starts: Ints) -> State:
        return {"digits": exact.carried(np.add.reduceat(state["digits"], starts, axis=0))}

    def over(self, state: State, low: Ints, high: Ints) -> State:
        digits = state["digits"]
        # Digits are under 2**32 and a bucket has under 2**31 events: the prefix cannot overflow.
        prefix = np.zeros((len(digits) + 1, digits.shape[1]), dtype=np.int64)
        np.cumsum(digits, axis=0, out=prefix[1:])
        return {"digits": prefix[high] - prefix[low]}

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return exact.narrowest(state["digits"], self.power)

    def store(self, state: State, rung: int) -> State:
        digits = exact.aligned(state["digits"], max(rung, exact.rung_of(state["digits"], self.power)), self.power)
        return {"digits": exact.narrowed(exact.carried(digits), rung, self.power)}

    def load(self, stored: State, rung: int) -> State:
        digits = stored["digits"].astype(np.int64)
        # The top digit alone is signed.
        digits[:, -1] = stored["digits"][:, -1].astype(np.uint32).view(np.int32)
        return {"digits": digits}
