"""A view's features, compiled: which tiles hold which partials, of which columns, and how each feature finishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from featurestore.errors import DefinitionError, UnknownColumnError, UnsupportedAggregateError
from featurestore.kernel.aggregates.catalogue import FUNCTIONS, Ask, Compiled, Function, compile_aggregate, function_of
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.own import OwnAggregate
from featurestore.kernel.aggregates.partial import Input, Partial
from featurestore.kernel.aggregates.place import PlacePartial
from featurestore.kernel.decay import HALF_LIVES
from featurestore.kernel.decimals import decimal_type
from featurestore.kernel.events import DataType
from featurestore.kernel.expressions import Expression, expression, said
from featurestore.kernel.prepare import ONES, TIME, Decay, Preparation, Prepared
from featurestore.kernel.program import Program, program_of
from featurestore.kernel.tilings import Even, Single, Tiling
from featurestore.kernel.windows import Lifetime, Newest, Session, Sliding, Window, window

_RATIO = "ratio"
# A decayed value fades tile by tile when it is read, at some twenty microseconds each.
_FADED_TILES_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Feature:
    """What an author writes: a function of a column, over one or several windows (none: all of time).

    function  a name of the catalogue, or an aggregate of the author's own
    other     the second column, of the functions that take two
    argument  of the functions that take one, such as the 0.9 of a quantile
    where     an expression over the event, as text: only events for which it is true
    parts     of a ratio: the features above and below the line
    """

    function: str | OwnAggregate
    column: str | None = None
    windows: tuple[str | Window, ...] = ()
    slide: str | None = None
    argument: float | None = None
    other: str | None = None
    where: str | None = None
    parts: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        """Raises DefinitionError where a part is of no type that an author can mean; its view looks at the rest."""
        if not isinstance(self.function, OwnAggregate) and str(self.function) not in FUNCTIONS:
            raise DefinitionError(f"{self.function!r} is no aggregate; give one of the catalogue, or an OwnAggregate")
        owner = self.function.name if isinstance(self.function, OwnAggregate) else self.function
        for column in (self.column, self.other):
            if column is not None and not isinstance(column, str):
                raise DefinitionError(
                    f"{owner} of {column!s}: give the name of a column; name an expression by columns= of the view, "
                    "and say which events count by where="
                )
        for each in self.windows:
            if not isinstance(each, str) and not hasattr(each, "tiling"):
                raise DefinitionError(
                    f"{owner} over {each!r}: write a window as text such as '1h', or session('30m') and the like"
                )
        if self.slide is not None and not self.windows:
            raise DefinitionError(f"{owner}: slide={self.slide!r} needs a window to move; say .over('1h', slide=...)")
        for part in self.parts:
            if not isinstance(part, Feature):
                raise DefinitionError(
                    f"{owner} of {part!r}: its parts are aggregates, such as sum('amount') and count()"
                )

    def over(self, *windows: str | Window, slide: str | None = None) -> Feature:
        """The same aggregate over these windows, such as `.over("24h", session("30m"))`."""
        return replace(self, windows=windows, slide=slide)


@dataclass(frozen=True, slots=True)
class Output:
    """One served feature: its window and its compiled aggregate."""

    name: str
    window: Window
    aggregate: Compiled


@dataclass(frozen=True, slots=True)
class Level:
    """Tiles of one tiling: the windows that they serve, and the partials that they hold."""

    tiling: Tiling
    windows: tuple[Window, ...]
    partials: tuple[Partial, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one view is computed; `layout` names the shape of its stored rows.

    prepare  makes the columns that the partials read
    program  the levels as tables for the compiled loops, where all records have a fixed width
    """

    outputs: tuple[Output, ...]
    levels: tuple[Level, ...]
    prepare: Preparation
    layout: int
    program: Program | None

    @property
    def exact_names(self) -> list[str]:
        """The sums whose stored width depends on their values."""
        return exact_names(self.levels)

    @property
    def columns(self) -> tuple[str, ...]:
        """The topic's columns that are needed."""
        return self.prepare.columns

    @property
    def is_rolled_up_packed(self) -> bool:
        """Whether every value comes from whole tiles between two numbers: a session looks at pauses, decay at ages."""
        return not any(isinstance(output.window, Session) or output.aggregate.faded for output in self.outputs)

    @property
    def reach_us(self) -> int | None:
        """How long after an event its row may still be needed; None: for ever."""
        reaches = [reach_us(window) for level in self.levels for window in level.windows]
        return None if None in reaches else max(reach for reach in reaches if reach is not None)

    def level_of(self, output: Output) -> int:
        return next(index for index, level in enumerate(self.levels) if level.tiling == output.window.tiling)


def exact_names(levels: Sequence[Level]) -> list[str]:
    return sorted({partial.name for level in levels for partial in level.partials if partial.has_rung})


def reach_us(over: Window) -> int | None:
    """The longest time that an event stays in the window; None: for ever."""
    if isinstance(over, Lifetime | Newest):
        return None
    # At the end of a tile a window reaches furthest back: a week so far is a whole week only on its last day.
    tiling = over.tiling
    probe = tiling.start_us(tiling.tile_of(np.array([1_700_000_000_000_000], dtype=np.int64))) - 1
    # Tiles of a calendar differ in length, by less than twice: two such windows are longer than any one.
    return 2 * int(probe[0] - tiling.start_us(over.first_tile(probe))[0])


def compile_plan(
    view: str,
    features: Mapping[str, Feature],
    types: Mapping[str, DataType],
    nullable: frozenset[str],
    added: Mapping[str, Expression] | None = None,
) -> Plan:
    """The plan of a view; raises UnknownColumnError, UnsupportedAggregateError, DefinitionError, MisalignedTileError.

    added  columns that the view adds to those of its topic
    """
    columns = _Columns(types, nullable, added or {})
    _check_own(view, features)
    outputs: list[Output] = []
    for name, feature in features.items():
        owner = f"feature {name!r} of view {view!r}"
        for label, over in _windows(owner, name, feature):
            outputs.append(Output(label, over, _compiled(owner, feature, over, columns)))
    tilings = sorted({output.window.tiling for output in outputs}, key=lambda tiling: (_size(tiling), tiling.text))
    levels = tuple(_level(tiling, outputs) for tiling in tilings)
    needed = {name for level in levels for partial in level.partials for name in partial.columns}
    shape = repr(
        [(level.tiling.text, [(partial.name, partial.fields(1)) for partial in level.partials]) for level in levels]
    )
    layout = int.from_bytes(blake2b(shape.encode(), digest_size=4).digest(), "little")
    program = program_of(levels, exact_names(levels), outputs)
    return Plan(tuple(outputs), levels, columns.preparation(needed), layout, program)


def _check_own(view: str, features: Mapping[str, Feature]) -> None:
    """What is stored is known by the name and version of an author's aggregate: two of them would share it."""
    known: dict[tuple[str, int], OwnAggregate] = {}
    for feature in features.values():
        for each in (feature, *feature.parts):
            if isinstance(each.function, OwnAggregate):
                own = each.function
                first = known.setdefault((own.name, own.version), own)
                if first is not own and (first != own or first.functions != own.functions):
                    raise DefinitionError(
                        f"view {view!r} has two aggregates {own.name!r} of version {own.version}; give one of them "
                        "another name"
                    )


def _windows(owner: str, name: str, feature: Feature) -> list[tuple[str, Window]]:
    """The served name and the window of each output of a feature."""
    function = function_of(feature.function)
    if feature.windows:
        if feature.slide is not None and not all(isinstance(each, str) for each in feature.windows):
            raise DefinitionError(
                f"{owner}: slide= is for windows written as text; the others move as their kind does, and before(...) "
                f"takes a slide of its own"
            )
        written = [each if not isinstance(each, str) else window(name, each, feature.slide) for each in feature.windows]
        for each in written:
            _check_window(owner, function, feature, each)
        return [(f"{name}_{each.label}", each) for each in written]
    if function.decays:
        # Without a window, so far back that nothing older would show.
        half_life_us = int(feature.argument or 0)
        return [(name, Sliding(HALF_LIVES * half_life_us, half_life_us))]
    if function.needs_size or any(function_of(part.function).needs_size for part in feature.parts):
        raise UnsupportedAggregateError(f"{owner}: {function.name} needs a window; add .over('1h')")
    return [(name, Lifetime())]


def _check_window(owner: str, function: Function, feature: Feature, over: Window) -> None:
    sized = function.needs_size or any(function_of(part.function).needs_size for part in feature.parts)
    if sized and over.size_us is None:
        raise UnsupportedAggregateError(
            f"{owner}: {function.name} needs a window of a fixed length such as '1h', not {over.label}"
        )
    if function.decays and not (isinstance(over, Sliding) and not over.shift_us):
        raise UnsupportedAggregateError(f"{owner}: {function.name} decays over sliding windows only, not {over.label}")
    if function.decays and isinstance(over, Sliding) and over.slide_us > HALF_LIVES * int(feature.argument or 0):
        raise UnsupportedAggregateError(
            f"{owner}: the half-life of {function.name} is too short for a slide of {over.tiling.text}; "
            f"leave .over(...) out, or give a slide"
        )
    if function.decays and isinstance(over, Sliding) and over.size_us > _FADED_TILES_MAX * over.slide_us:
        raise UnsupportedAggregateError(
            f"{owner}: {function.name} adds up every tile at each lookup, and {over.label} in steps of "
            f"{over.tiling.text} has more than {_FADED_TILES_MAX:,} of them; give a longer slide"
        )


def _compiled(owner: str, feature: Feature, over: Window, columns: _Columns) -> Compiled:
    function = function_of(feature.function)
    if not feature.parts:
        return compile_aggregate(owner, feature.function, _ask(owner, function, feature, over, columns))
    for part in feature.parts:
        if part.windows or part.parts or function_of(part.function).decays:
            raise UnsupportedAggregateError(
                f"{owner}: the parts of a ratio are aggregates without windows of their own, without decay"
            )
    parts = tuple(_compiled(owner, part, over, columns) for part in feature.parts)
    return compile_aggregate(owner, feature.function, Ask(parts=parts))


def _ask(owner: str, function: Function, feature: Feature, over: Window, columns: _Columns) -> Ask:
    where = None
    if feature.where is not None:
        where = expression(f"where of {owner}", feature.where, columns.types)
        if where.dtype != "bool":
            raise UnsupportedAggregateError(f"{owner}: where must be true or false, but {where} gives {where.dtype}")
    decay = Decay(int(feature.argument or 0), over.tiling) if function.decays and feature.argument else None
    column = other = None
    if feature.column is not None:
        columns.check(owner, feature.column)
    if feature.other is not None:
        columns.check(owner, feature.other)
    if feature.column is not None and feature.other is not None:
        column = columns.made(feature.column, where, partner=feature.other)
        other = columns.made(feature.other, where, partner=feature.column)
    elif feature.column is not None:
        column = columns.made(feature.column, where)
    return Ask(
        column=column,
        other=other,
        time=columns.made(TIME, where, partner=feature.column),
        events=columns.made(ONES, where) if where is not None else None,
        faded=columns.made(feature.column, where, decay=decay) if decay and feature.column else None,
        weight=columns.made(ONES, where, partner=feature.column, decay=decay) if decay else None,
        argument=feature.argument,
        over=over,
    )


class _Columns:
    """The columns of a view's events, and those that its features make of them."""

    def __init__(
        self, types: Mapping[str, DataType], nullable: frozenset[str], added: Mapping[str, Expression]
    ) -> None:
        self._topic, self._added = types, added
        self.types: dict[str, DataType] = {**types, **{name: _kept(name, each) for name, each in added.items()}}
        self._nullable = nullable | set(added)
        self._made: dict[str, Prepared] = {}

    def check(self, owner: str, column: str) -> None:
        if column not in self.types:
            raise UnknownColumnError(owner, column, self.types)

    def made(
        self, source: str, where: Expression | None, partner: str | None = None, decay: Decay | None = None
    ) -> Input:
        """The column with what does not count taken out; itself where everything counts."""
        partner = partner if partner in self._nullable and partner != source else None
        dtype: DataType = "timestamp" if source == TIME else self.types.get(source, "int64")
        nullable = source in self._nullable or where is not None or partner is not None
        name = source
        if where is not None:
            name += f"?{where.digest}"
        if partner is not None:
            name += f"&{partner}"
        if decay is not None:
            name += f"~{decay.half_life_us}/{decay.tiling.text}"
            dtype = "float64"
        if name != source:
            made = Prepared(name, source, where, partner, decay)
            if self._made.setdefault(name, made) != made:
                raise DefinitionError(
                    f"where={where} has the same short name as another condition of this view; write it in another "
                    "way, such as with its sides exchanged"
                )
        return Input(name, dtype, nullable)

    def preparation(self, needed: set[str]) -> Preparation:
        """Only what partials read."""
        made = tuple(self._made[name] for name in sorted(needed & set(self._made)))
        plain = tuple(sorted(needed - set(self._made)))
        used = {*plain, *(name for each in made for name in (each.source, each.partner) if name)}
        used.update(column for each in made if each.where for column in each.where.columns)
        added = {name: each for name, each in self._added.items() if name in used}
        return Preparation(self._topic, added, made, plain)


def _kept(name: str, added: Expression) -> DataType:
    """The type of an added column: of a decimal as many digits as an int64 holds, numbers of more are null."""
    found = decimal_type(added.dtype)
    if found is None:
        return added.dtype
    if found.scale > found.kept.precision:
        raise DefinitionError(
            f"column {name!r}, {added}, gives {added.dtype}; cast it to pl.Decimal(18, 2) or to Float64"
        )
    return found.kept.text


def _level(tiling: Tiling, outputs: list[Output]) -> Level:
    here = [output for output in outputs if output.window.tiling == tiling]
    partials: dict[str, Partial] = {partial.name: partial for output in here for partial in output.aggregate.partials}
    windows = tuple(dict.fromkeys(output.window for output in here))
    if any(isinstance(each, Session) for each in windows):
        # Where a session begins is told by the first and last event of each tile.
        for edge in (FIRST_TIME, LAST_TIME):
            partials[edge.name] = edge
    if isinstance(tiling, Single):
        partials[PLACE.name] = PLACE
    return Level(tiling, windows, tuple(partials[name] for name in sorted(partials)))


FIRST_TIME = ExtremePartial(TIME, "timestamp", "min")
LAST_TIME = ExtremePartial(TIME, "timestamp", "max")
PLACE = PlacePartial()


def _size(tiling: Tiling) -> float:
    if isinstance(tiling, Single):
        return 0
    return tiling.tile_us if isinstance(tiling, Even) else float("inf")


def where_of(feature: str, written: Any) -> str | None:
    """An author's `where=` as text; None where there is none."""
    return None if written is None else said(f"where of {feature}", written)
