"""An aggregate of the author's own: zero, add, merge, finish, over NumPy arrays of many partials at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real

import numpy as np
import numpy.typing as npt

from featurestore.errors import DefinitionError
from featurestore.kernel.aggregates.compiled import Ask, Compiled, Finished, Span, given
from featurestore.kernel.aggregates.counting import counter_of
from featurestore.kernel.aggregates.partial import Array, Field, Input, Ints, State, concat, rungless, runs_of, take
from featurestore.kernel.decimals import decimal_type
from featurestore.kernel.events import ARROW_TYPES, DataType, Events


@dataclass(frozen=True)
class OwnAggregate:
    """Four functions; `featurestore.testing.check_aggregate` runs the kernel's own tests on them.

    name      of the aggregate; with `version` it names what is stored, so raise `version` when a function changes
    accepts   column types that it takes; "decimal": those of all lengths, as whole numbers of their last digit
    state     field -> little-endian NumPy type, such as {"product": "<f8"}
    zero      field -> the number of an empty partial
    add       (n) values -> field -> (n): the partial of each value alone
    merge     two states of n partials -> their n merges; in any order and grouping it must give the same bits
    finish    a state of n partials -> (n) values of type `gives`; NaN and infinities become null
    """

    name: str
    accepts: tuple[DataType, ...]
    state: Mapping[str, str]
    zero: Mapping[str, float | int]
    add: Callable[[Array], Mapping[str, Array]] = field(repr=False, compare=False)
    merge: Callable[[Mapping[str, Array], Mapping[str, Array]], Mapping[str, Array]] = field(repr=False, compare=False)
    finish: Callable[[Mapping[str, Array]], Array] = field(repr=False, compare=False)
    gives: DataType = "float64"
    version: int = 1

    def __post_init__(self) -> None:
        owner = f"aggregate {self.name!r}"
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise DefinitionError(f"{owner}: its name must be letters, digits and _, and not begin with a digit")
        for what in ("add", "merge", "finish"):
            if not callable(getattr(self, what)):
                raise DefinitionError(f"{owner}: {what} must be a function, not {getattr(self, what)!r}")
        for kind in self.accepts:
            if kind != "decimal" and kind not in ARROW_TYPES and decimal_type(kind) is None:
                raise DefinitionError(f"{owner} accepts {kind!r}; use some of {', '.join(ARROW_TYPES)}, 'decimal'")
        if not self.state or set(self.state) != set(self.zero):
            raise DefinitionError(f"{owner}: state and zero must name the same fields, and at least one")
        for name, kind in self.state.items():
            if not _is_number(kind):
                raise DefinitionError(
                    f"{owner}: field {name!r} of its state is {kind!r}; use a little-endian NumPy type such as '<f8'"
                )
            if not isinstance(self.zero[name], Real) or not _holds(kind, self.zero[name]):
                raise DefinitionError(f"{owner}: zero of {name!r} must be a {kind!r}, not {self.zero[name]!r}")
        if self.gives not in ARROW_TYPES and decimal_type(self.gives) is None:
            raise DefinitionError(
                f"{owner} gives {self.gives!r}; use one of {', '.join(ARROW_TYPES)}, 'decimal(12, 2)'"
            )

    def __hash__(self) -> int:
        return hash((self.name, self.version))

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """What the name and version stand for."""
        return self.add, self.merge, self.finish


@dataclass(frozen=True)
class OwnPartial:
    """The state of an author's aggregate for one column."""

    own: OwnAggregate
    input: Input
    has_rung: bool = False
    has_heap: bool = False

    @property
    def name(self) -> str:
        return f"{self.own.name}.{self.own.version}({self.input.name})"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.input.name,)

    def fields(self, rung: int) -> tuple[Field, ...]:
        return tuple(Field(name, dtype) for name, dtype in self.own.state.items())

    def lift(self, events: Events) -> State:
        column = events.columns[self.input.name]
        valid = column.valid
        if valid is None:
            return self._typed(self.own.add(column.values))
        some = np.flatnonzero(valid)
        added = self._typed(self.own.add(column.values[some]))
        out = {name: np.full(len(events), self.own.zero[name], dtype) for name, dtype in self.own.state.items()}
        for name, values in added.items():
            out[name][some] = values
        return out

    def concat(self, states: Sequence[State]) -> State:
        return concat(states)

    def merge(self, state: State, starts: Ints) -> State:
        """Neighbours two by two, until each run is one."""
        total = len(next(iter(state.values())))
        while len(starts) < total:
            run = runs_of(starts, total)
            inside = np.arange(total) - starts[run]
            last = np.append(starts[1:], total)[run] - 1
            paired = np.flatnonzero((inside % 2 == 0) & (np.arange(total) < last))
            together = self._typed(self.own.merge(take(state, paired), take(state, paired + 1)))
            state = {name: values.copy() for name, values in state.items()}
            for name, values in together.items():
                state[name][paired] = values
            kept = np.flatnonzero(inside % 2 == 0)
            state = take(state, kept)
            starts = np.flatnonzero(np.concatenate(([True], run[kept][1:] != run[kept][:-1])))
            total = len(kept)
        return state

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """A tree of blocks of 1, 2, 4, ... events: a range is merged from at most two blocks of each size."""
        out = {name: np.full(len(low), self.own.zero[name], dtype) for name, dtype in self.own.state.items()}
        low, high, level = low.copy(), high.copy(), state
        while (low < high).any():
            for edge, step in ((low, 1), (high, -1)):
                odd = np.flatnonzero((low < high) & (edge % 2 == 1))
                block = take(level, edge[odd] if step == 1 else edge[odd] - 1)
                joined = self._typed(self.own.merge(take(out, odd), block))
                for name, values in joined.items():
                    out[name][odd] = values
                edge[odd] += step
            pairs = len(next(iter(level.values()))) // 2 * 2
            halves = ({name: values[side:pairs:2] for name, values in level.items()} for side in (0, 1))
            level, low, high = self._typed(self.own.merge(*halves)), low // 2, high // 2
        return out

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return rungless(state)

    def store(self, state: State, rung: int) -> State:
        return state

    def load(self, stored: State, rung: int) -> State:
        return {name: stored[name].copy() for name in self.own.state}

    def _typed(self, state: Mapping[str, Array]) -> State:
        return {name: np.asarray(state[name], dtype=dtype) for name, dtype in self.own.state.items()}


def _is_number(kind: str) -> bool:
    try:
        found = np.dtype(kind)
    except TypeError:
        return False
    return found.kind in "biuf" and found == found.newbyteorder("<")


def _holds(kind: str, number: float) -> bool:
    try:
        np.array(number, dtype=kind)
    except OverflowError:
        return False
    return True


def own_builder(own: OwnAggregate) -> Callable[[Ask], Compiled]:
    """The author's aggregate as the catalogue's are."""

    def build(ask: Ask) -> Compiled:
        column = given(ask.column)
        counter, partial = counter_of(column), OwnPartial(own, column)

        def finish(states: Mapping[str, State], span: Span) -> Finished:
            some = states[counter.name]["count"] > 0
            values = np.asarray(own.finish(states[partial.name]))
            if values.shape != some.shape:
                raise DefinitionError(
                    f"aggregate {own.name!r}: finish gave {values.shape} values for {len(some)} partials; give one each"
                )
            if own.gives == "float64":
                some = some & np.isfinite(values)
            return Finished(np.where(some, values, 0), some)

        return Compiled((counter, partial), own.gives, finish)

    return build
