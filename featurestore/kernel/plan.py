"""A view's features, compiled: which tiles of which sizes hold which partials, and how each feature finishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from featurestore.errors import UnknownColumnError, UnsupportedAggregateError
from featurestore.kernel.aggregates.catalogue import Compiled, compile_aggregate
from featurestore.kernel.aggregates.partial import Input, Partial
from featurestore.kernel.events import DataType
from featurestore.kernel.windows import LIFETIME, Window, window


@dataclass(frozen=True, slots=True)
class Feature:
    """What an author writes: a function of a column, over one or several windows (none: all of time).

    argument  of the functions that take one, such as the 0.9 of a quantile
    """

    function: str
    column: str | None = None
    windows: tuple[str, ...] = ()
    slide: str | None = None
    argument: float | None = None

    def over(self, *windows: str, slide: str | None = None) -> Feature:
        """The same aggregate over these windows, such as `.over("24h", "7d")`."""
        return Feature(self.function, self.column, windows, slide, self.argument)


@dataclass(frozen=True, slots=True)
class Output:
    """One served feature: its window and its compiled aggregate."""

    name: str
    window: Window
    aggregate: Compiled


@dataclass(frozen=True, slots=True)
class Level:
    """Tiles of one size: the partials they hold and the longest window that they serve (None: all of time)."""

    tile_us: int | None
    span_us: int | None
    partials: tuple[Partial, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one view is computed; `layout` names the shape of its stored rows."""

    outputs: tuple[Output, ...]
    levels: tuple[Level, ...]
    columns: tuple[str, ...]
    layout: int

    @property
    def span_us(self) -> int | None:
        """The longest window, None when a feature covers all of time."""
        spans = [level.span_us for level in self.levels]
        return None if None in spans else max(span for span in spans if span is not None)

    def level_of(self, output: Output) -> int:
        return next(index for index, level in enumerate(self.levels) if level.tile_us == output.window.slide_us)


def compile_plan(
    view: str, features: Mapping[str, Feature], types: Mapping[str, DataType], nullable: frozenset[str]
) -> Plan:
    """The plan of a view; raises UnknownColumnError, UnsupportedAggregateError, MisalignedTileError."""
    outputs = []
    for name, feature in features.items():
        column = None
        if feature.column is not None:
            if feature.column not in types:
                raise UnknownColumnError(f"feature {name!r} of view {view!r}", feature.column, types)
            column = Input(feature.column, types[feature.column], feature.column in nullable)
        aggregate = compile_aggregate(feature.function, column, feature.argument)
        if not feature.windows:
            if aggregate.needs_window:
                raise UnsupportedAggregateError(
                    f"feature {name!r} of view {view!r}: {feature.function} needs a window; add .over('1h')"
                )
            outputs.append(Output(name, LIFETIME, aggregate))
        for size in feature.windows:
            span = window(name, size, feature.slide)
            outputs.append(Output(f"{name}_{span.label}", span, aggregate))
    levels = tuple(_level(tile_us, outputs) for tile_us in sorted({o.window.slide_us for o in outputs}, key=_by_size))
    columns = sorted({p.column for o in outputs for p in o.aggregate.partials if p.column is not None})
    shape = repr(
        [(level.tile_us, [(partial.name, partial.fields(1)) for partial in level.partials]) for level in levels]
    )
    layout = int.from_bytes(blake2b(shape.encode(), digest_size=4).digest(), "little")
    return Plan(tuple(outputs), levels, tuple(columns), layout)


def _by_size(tile_us: int | None) -> float:
    return float("inf") if tile_us is None else tile_us


def _level(tile_us: int | None, outputs: list[Output]) -> Level:
    here = [output for output in outputs if output.window.slide_us == tile_us]
    partials = {partial.name: partial for output in here for partial in output.aggregate.partials}
    span_us = None if tile_us is None else max(output.window.size_us or 0 for output in here)
    return Level(tile_us, span_us, tuple(partials[name] for name in sorted(partials)))
