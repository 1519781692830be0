"""What every family of aggregates gives: zero, lift, merge, finish.

A *partial* is an unfinished aggregate of one column: (sum, count), never the mean. Here a partial works on
many values at once: its state is a few arrays whose first axis runs over tiles, events or answers alike.
Events become partials of one event each (`lift`); neighbours become one (`merge`); nothing else is needed
to fold a batch into tiles, tiles into rows, and tiles into a window. The join asks for overlapping ranges
of events instead (`over`), which a family may answer faster than by merging each range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from featurestore.kernel.events import DataType, Events

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
State = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Field:
    """One stored number of a partial: name, little-endian NumPy type, how many."""

    name: str
    dtype: str
    count: int = 1


class Partial(Protocol):
    """One family's state for one column. Implementations are frozen and compared by value."""

    @property
    def name(self) -> str:
        """Unique in a plan, such as `sum(arr_delay)`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of events that it reads."""

    @property
    def has_rung(self) -> bool:
        """Whether the stored width depends on the values (exact sums)."""

    @property
    def has_heap(self) -> bool:
        """Whether values of any length lie after the records."""

    def fields(self, rung: int) -> tuple[Field, ...]: ...

    def lift(self, events: Events) -> State:
        """One partial an event; a null is the empty partial."""

    def concat(self, states: Sequence[State]) -> State: ...

    def merge(self, state: State, starts: Ints) -> State:
        """Merge each run that begins at one of `starts` (rising, first 0) and ends before the next."""

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """Merge the ranges [low, high) of lifted events in event order; low < high everywhere."""

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        """The rung that each stored partial needs; zeros where there are none."""

    def store(self, state: State, rung: int) -> State:
        """The arrays of `fields(rung)`."""

    def load(self, stored: State, rung: int) -> State: ...


def take(state: State, index: npt.NDArray[Any]) -> State:
    """The same partials in another order, or fewer."""
    return {name: values[index] for name, values in state.items()}


def concat(states: Sequence[State]) -> State:
    """Partials of several states, one after another."""
    return {name: np.concatenate([state[name] for state in states]) for name in states[0]}


def runs_of(starts: Ints, total: int) -> Ints:
    """Which run each of `total` partials is in; runs begin at `starts`, as in `Partial.merge`."""
    run = np.zeros(total, dtype=np.int64)
    run[starts[1:]] = 1
    return np.cumsum(run)


def rungless(state: State) -> npt.NDArray[np.uint8]:
    """The rungs of partials that have one width only."""
    return np.zeros(len(next(iter(state.values()))), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Input:
    """The column that an aggregate reads: its name, type, and whether it may be null."""

    name: str
    dtype: DataType
    nullable: bool
