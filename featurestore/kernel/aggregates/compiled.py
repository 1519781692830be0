"""What an aggregate is once compiled, and what it is compiled from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.partial import Array, Input, Ints, Partial, State
from featurestore.kernel.events import ValueType
from featurestore.kernel.windows import Lifetime, Window

T = TypeVar("T")
Plain = Literal["count", "sum", "mean", "min", "max"]


@dataclass(frozen=True, slots=True)
class Finished:
    """Values of one output; null where `valid` is false."""

    values: Array
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Span:
    """What values are finished for: the moment of each."""

    moments_us: Ints


Finish = Callable[[Mapping[str, State], Span], Finished]


@dataclass(frozen=True, slots=True)
class Compiled:
    """An aggregate of its columns, ready to run: its partials, result type, and finish.

    zero_when_empty  SQL's 0 of a count, for an entity without events in the window; null for the rest
    faded            sums that are weighed by their age before they are finished, and the half-life
    plain            what the finish is, where it is one of those that the compiled loops know as well
    """

    partials: tuple[Partial, ...]
    dtype: ValueType
    finish: Finish
    zero_when_empty: bool = False
    faded: tuple[str, ...] = ()
    half_life_us: int = 0
    plain: Plain | None = None


NOTHING = Input("@one", "int64", nullable=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """What an aggregate is asked for, with the columns in which only the right events have values.

    column, other   what it reads
    events          counts the events, where not all of them count
    time            event time, of the events in which `column` has a value
    faded, weight   `column` and 1, faded by age
    parts           of a ratio
    """

    column: Input | None = None
    other: Input | None = None
    events: Input | None = None
    time: Input = NOTHING
    faded: Input | None = None
    weight: Input | None = None
    argument: float | None = None
    over: Window = Lifetime()  # noqa: RUF009  # frozen
    parts: tuple[Compiled, ...] = ()

    @property
    def size_us(self) -> int:
        return given(self.over.size_us)


Builder = Callable[[Ask], Compiled]


def given(value: T | None) -> T:
    """What the catalogue has seen to be there."""
    assert value is not None, "the catalogue checks what each function takes"
    return value


def always(values: Array) -> Finished:
    return Finished(values, np.ones(len(values), dtype=np.bool_))
