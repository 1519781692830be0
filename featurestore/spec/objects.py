"""The values that a definitions repository is made of: frozen, compared by value, checked when built."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from featurestore.errors import (
    DefinitionError,
    MissingEntityKeyError,
    UnknownColumnError,
    UnknownObjectError,
    WrongTypeError,
)
from featurestore.event_time import duration_us
from featurestore.kernel import (
    ARROW_TYPES,
    PRECISION_MAX,
    DataType,
    Feature,
    Plan,
    ValueType,
    arrow_type,
    as_decimals,
    compile_plan,
    decimal_type,
)
from featurestore.kernel.expressions import Expression, evaluate, expression, said
from featurestore.spec.contract import (
    Format,
    checked_choices,
    checked_columns,
    checked_format,
    checked_lengths,
    checked_ranges,
    checked_renamed,
)
from featurestore.spec.names import LOOKUP_NAMES, checked_name

_PYTHON_TYPES: dict[object, DataType] = {
    str: "string",
    int: "int64",
    float: "float64",
    bool: "bool",
    datetime: "timestamp",
    **{name: name for name in ARROW_TYPES},
}


@dataclass(frozen=True)
class Entity:
    """The thing that features describe, such as an aircraft.

    key  the column, or columns, that name one of them
    """

    name: str
    key: str | tuple[str, ...]
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_name("entity", self.name)
        if not self.keys:
            raise DefinitionError(f"entity {self.name!r} has no key; name the column that tells one from another")
        for column in self.keys:
            if self.keys.count(checked_name("entity key", column)) > 1:
                raise DefinitionError(f"entity {self.name!r} has the key {column!r} twice; name each column once")

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)


@dataclass(frozen=True)
class Topic:
    """A Kafka topic and the contract of its events.

    schema      column -> str, int, float, bool, "timestamp" (ISO 8601 text or microseconds in JSON), or
                "decimal(12, 2)" (12 digits, 2 of them after the point; a number or text of one in JSON)
    event_time  the time stamp column that says when the event happened
    key         the column whose value is the record's key: events of one key stay in order
    nullable    columns that may be null or missing; every other one must be there
    format      how events are written: json, avro, protobuf (both by Schema Registry), arrow (many events a record)
    ranges      number or decimal column -> (least, most), both allowed; None is an open end
    lengths     text column -> most characters, or (least, most)
    choices     text or int column -> the only values that it may have
    renamed     column -> its former name, or names, that writers may still use and the log has (not for json)
    dedupe      the column (str or int) that names an event: of events with one id, only the first one counts
    within      how long an id is remembered, by the event time of its partition
    """

    name: str
    schema: Mapping[str, DataType]
    event_time: str
    key: str | None = None
    partitions: int = 4
    nullable: tuple[str, ...] = ()
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    format: Format = "json"
    ranges: Mapping[str, Any] = field(default_factory=dict)
    lengths: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, Any] = field(default_factory=dict)
    dedupe: str | None = None
    within: str | timedelta | int | None = None

    def __post_init__(self) -> None:
        checked_name("topic", self.name)
        typed: dict[str, DataType] = {}
        for column, kind in self.schema.items():
            checked_name("column", column)
            typed[column] = _typed(f"column {column!r} of topic {self.name!r}", kind)
        object.__setattr__(self, "schema", typed)
        owner = f"topic {self.name!r}"
        if isinstance(self.nullable, str):
            # A text is many names of one letter.
            raise DefinitionError(f"{owner} has nullable={self.nullable!r}; write names, as ({self.nullable!r},)")
        for column in (self.event_time, *self.nullable, *([self.key] if self.key else [])):
            if column not in typed:
                raise UnknownColumnError(owner, column, typed)
        if typed[self.event_time] != "timestamp" or self.event_time in self.nullable:
            raise DefinitionError(f"event time {self.event_time!r} of {owner} must be a 'timestamp' that is never null")
        if type(self.partitions) is not int or not 1 <= self.partitions <= 10_000:
            raise DefinitionError(f"{owner} has {self.partitions!r} partitions; use 1 to 10000")
        object.__setattr__(self, "format", checked_format(owner, self.format, typed))
        checked_columns(owner, typed, self.format)
        object.__setattr__(self, "ranges", checked_ranges(owner, self.ranges, typed))
        object.__setattr__(self, "lengths", checked_lengths(owner, self.lengths, typed))
        object.__setattr__(self, "choices", checked_choices(owner, self.choices, typed))
        object.__setattr__(self, "renamed", checked_renamed(owner, self.renamed, typed, self.format))
        self._check_dedupe(owner)

    @property
    def is_batched(self) -> bool:
        """Whether one record holds many events: they share its offset and differ by their place in it."""
        return self.format == "arrow"

    @property
    def contract(self) -> dict[str, str]:
        """What columns must keep to beside their types, in words; only those that must keep to something."""
        said: dict[str, list[str]] = {}
        for column, (least, most) in self.ranges.items():
            said.setdefault(column, []).append(_between(least, most))
        for column, (least, most) in self.lengths.items():
            said.setdefault(column, []).append(f"{_between(least, most)} characters")
        for column, chosen in self.choices.items():
            said.setdefault(column, []).append("one of " + ", ".join(map(repr, chosen)))
        return {column: ", ".join(said[column]) for column in self.schema if column in said}

    def _check_dedupe(self, owner: str) -> None:
        if (self.dedupe is None) != (self.within is None):
            raise DefinitionError(f"{owner} needs dedupe and within together, such as dedupe='event_id', within='1h'")
        if self.dedupe is None:
            return
        if self.dedupe not in self.schema:
            raise UnknownColumnError(owner, self.dedupe, self.schema)
        if self.schema[self.dedupe] not in ("string", "int64"):
            raise DefinitionError(
                f"dedupe={self.dedupe!r} of {owner} is a {self.schema[self.dedupe]}; an id is a str or an int"
            )
        if self.is_batched:
            raise DefinitionError(f"{owner} has dedupe={self.dedupe!r}, which the format 'arrow' does not have yet")
        if self.key is None:
            raise DefinitionError(
                f"{owner} has dedupe={self.dedupe!r}, but no key: each partition remembers the ids that it has seen, "
                "so an event sent twice must come to the same one; set key to a column that both copies share"
            )
        if self.key in self.nullable:
            raise DefinitionError(
                f"{owner} has dedupe={self.dedupe!r}, but its key {self.key!r} may be null: events without a key go to "
                "any partition, and each remembers its own ids; set key to a column that is never null"
            )
        if not self.within_us:
            raise DefinitionError(f"{owner} has within={self.within!r}; ids are remembered for longer than no time")

    @property
    def within_us(self) -> int:
        return 0 if self.within is None else duration_us(self.within)

    @property
    def arrow_schema(self) -> pa.Schema:
        return pa.schema(
            [pa.field(name, arrow_type(kind), name in self.nullable) for name, kind in self.schema.items()]
        )


@dataclass(frozen=True)
class FeatureView:
    """Named features of one entity from one topic.

    features  name -> aggregate, such as count().over("24h") or last("delay"); not "status", "age_s" or "watermark",
              which lookups tell of the view
    columns   name -> Polars expression over an event's columns: columns that the features read as well
    lateness  how far behind the newest event of its partition an event may be and still count
    online    whether rows are kept for lookups; without them the view is for training sets alone
    max_age   how old the newest event may be before plain (windowless) values count as outdated; None: for ever
    """

    name: str
    entity: Entity
    source: Topic
    features: Mapping[str, Feature]
    lateness: str | timedelta | int = "0s"
    online: bool = True
    max_age: str | timedelta | int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_name("feature view", self.name)
        owner = f"feature view {self.name!r}"
        if not isinstance(self.entity, Entity) or not isinstance(self.source, Topic):
            raise DefinitionError(f"{owner} needs an Entity and a Topic, but got {self.entity!r} and {self.source!r}")
        if not self.features:
            raise DefinitionError(f"{owner} has no features; give it at least one, such as count().over('24h')")
        for name, feature in self.features.items():
            checked_name("feature", name)
            if not isinstance(feature, Feature):
                raise DefinitionError(f"feature {name!r} of {owner} is {feature!r}; write an aggregate such as count()")
        for column in self.entity.keys:
            if column not in self.source.schema:
                raise UnknownColumnError(f"{owner} (key of entity {self.entity.name!r})", column, self.source.schema)
            if self.source.schema[column] == "float64":
                raise DefinitionError(f"entity key {column!r} of {owner} is a float; floats do not name things")
            if decimal_type(self.source.schema[column]) is not None:
                raise DefinitionError(f"entity key {column!r} of {owner} is a decimal; amounts do not name things")
        added = _expressions(f"column of {owner}", self.columns, self.source.schema)
        object.__setattr__(self, "columns", added)
        duration_us(self.lateness)
        if self.max_age is not None:
            duration_us(self.max_age)
        names = [output.name for output in self.plan.outputs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DefinitionError(f"{owner} would serve {twice[0]!r} twice; rename one of the features")
        taken = next((name for name in names if name in LOOKUP_NAMES), None)
        if taken is not None:
            raise DefinitionError(
                f"{owner} would serve {taken!r}, but lookups tell {', '.join(map(repr, LOOKUP_NAMES))} of the view "
                f"itself under such names; rename the feature, such as 'its_{taken}'"
            )

    def __getitem__(self, features: str | tuple[str, ...]) -> ViewSelection:
        """Some of the view's features: `view["delay_mean_24h", "flights_7d"]`."""
        return ViewSelection(self, (features,) if isinstance(features, str) else tuple(features))

    @cached_property
    def plan(self) -> Plan:
        nullable = frozenset(self.source.nullable)
        return compile_plan(self.name, self.features, self.source.schema, nullable, self.columns)

    @cached_property
    def outputs(self) -> dict[str, ValueType]:
        """Served features and their types, in the order of the definition."""
        return {output.name: output.aggregate.dtype for output in self.plan.outputs}

    @cached_property
    def version(self) -> str:
        """Changes when, and only when, something changes that decides the values."""
        schema = sorted(self.source.schema.items()), sorted(self.source.nullable), self.source.event_time
        features, added = sorted(self.features.items()), sorted(self.columns.items())
        values: tuple[object, ...] = (
            *(self.name, self.entity.keys, self.source.name, schema, features, added, self.lateness_us),
            # Only where there is something to say, so that views of plain topics keep their versions.
            *([self.source.contract] if self.source.contract else []),
            *(["batched"] if self.source.is_batched else []),
            # Under a former name there are the events of before.
            *([sorted(self.source.renamed.items())] if self.source.renamed else []),
        )
        return blake2b(repr(values).encode(), digest_size=4).hexdigest()

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def lateness_us(self) -> int:
        return duration_us(self.lateness)

    @property
    def max_age_us(self) -> int | None:
        return None if self.max_age is None else duration_us(self.max_age)


@dataclass(frozen=True)
class ViewSelection:
    """Some features of a view, in the order asked."""

    view: FeatureView
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        for feature in self.features:
            if feature not in self.view.outputs:
                raise UnknownObjectError(f"feature of view {self.view.name!r}", feature, self.view.outputs)

    @property
    def columns(self) -> tuple[str, ...]:
        """Served column names: `view__feature`."""
        return tuple(f"{self.view.name}__{feature}" for feature in self.features)


@dataclass(frozen=True)
class FeatureService:
    """What one model is served: features of one or several views, and what is derived from them at the moment.

    request  column -> type, given with each lookup (or by the spine): such as the amount of the payment being scored
    derived  name -> Polars expression over `view__feature` columns, entity keys, request columns, and the derived
             features before it
    """

    name: str
    views: tuple[FeatureView | ViewSelection, ...] | list[FeatureView | ViewSelection]
    request: Mapping[str, Any] = field(default_factory=dict)
    derived: Mapping[str, Any] = field(default_factory=dict)
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_name("feature service", self.name)
        if isinstance(self.views, FeatureView | ViewSelection):
            raise DefinitionError(f"feature service {self.name!r} has a view for its list of views; write [view]")
        object.__setattr__(self, "views", tuple(self.views))
        if not self.views:
            raise DefinitionError(f"feature service {self.name!r} has no views")
        names = [selection.view.name for selection in self.selections]
        if len(set(names)) < len(names):
            raise DefinitionError(f"feature service {self.name!r} names a view twice; select all its features at once")
        owner = f"feature service {self.name!r}"
        self._check_keys(owner)
        typed = {}
        for column, kind in self.request.items():
            if checked_name("request column", column) in self.entity_keys:
                raise DefinitionError(f"request column {column!r} of {owner} is an entity key already")
            typed[column] = _typed(f"request column {column!r} of {owner}", kind)
        object.__setattr__(self, "request", typed)
        known = {**self.features, **self.asked}
        derived = _expressions(f"derived feature of {owner}", self.derived, known, chained=True)
        object.__setattr__(self, "derived", derived)

    def _check_keys(self, owner: str) -> None:
        """One value is given for each key column, and names entities of all views that have it."""
        first: dict[str, FeatureView] = {}
        for view in (selection.view for selection in self.selections):
            for key in view.entity.keys:
                other = first.setdefault(key, view)
                kind, before = view.source.schema[key], other.source.schema[key]
                if kind != before:
                    raise DefinitionError(
                        f"entity key {key!r} of {owner} is {before} in view {other.name!r} and {kind} in view "
                        f"{view.name!r}, but a lookup gives one value for both; rename the column in one topic, or "
                        "make a service of each view"
                    )

    @cached_property
    def selections(self) -> tuple[ViewSelection, ...]:
        return tuple(v if isinstance(v, ViewSelection) else ViewSelection(v, tuple(v.outputs)) for v in self.views)

    @cached_property
    def entity_keys(self) -> tuple[str, ...]:
        """Every key column that a request must give."""
        return tuple(dict.fromkeys(key for selection in self.selections for key in selection.view.entity.keys))

    @cached_property
    def asked(self) -> Mapping[str, DataType]:
        """Every column that a request or a spine must give, with its type: entity keys, then request columns."""
        keys = {key: s.view.source.schema[key] for s in self.selections for key in s.view.entity.keys}
        return MappingProxyType({**keys, **self.request})

    @property
    def features(self) -> dict[str, ValueType]:
        """Every served column of the views, with its type."""
        return {
            column: each.view.outputs[feature]
            for each in self.selections
            for feature, column in zip(each.features, each.columns, strict=True)
        }

    @property
    def outputs(self) -> dict[str, ValueType]:
        """Every served column, with its type: those of the views, then the derived ones."""
        return {**self.features, **{name: each.dtype for name, each in self.derived.items()}}

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.outputs)

    def derive(self, columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
        """The derived features of n rows, from the columns of the views and of the request.

        Raises MissingEntityKeyError, WrongTypeError.
        """
        if not self.derived:
            return {}
        missing = [name for name in self.request if name not in columns]
        if missing:
            raise MissingEntityKeyError(f"{self.name!r} (request columns)", self.request, columns)
        typed = dict(columns)
        for name, kind in self.request.items():
            typed[name] = typed_column(name, columns[name], kind)
        out: dict[str, pa.Array] = {}
        for layer in self._layers:
            out.update(evaluate(layer, {**typed, **out}))
        return {name: out[name] for name in self.derived}

    @cached_property
    def _layers(self) -> list[dict[str, Expression]]:
        """The derived features by how many others stand below them."""
        depth: dict[str, int] = {}
        for name, each in self.derived.items():
            depth[name] = 1 + max((depth[column] for column in each.columns if column in depth), default=-1)
        return [
            {name: self.derived[name] for name in self.derived if depth[name] == level}
            for level in range(1 + max(depth.values()))
        ]

    @property
    def version(self) -> str:
        chosen = [(selection.view.id, selection.features) for selection in self.selections]
        values = (self.name, chosen, sorted(self.request.items()), sorted(self.derived.items()))
        return blake2b(repr(values).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class TrainingJob:
    """A model trained on a service's features.

    label      column of the spine that the model predicts (bool)
    baseline   columns of the spine that a model without the service would have; compared side by side
    """

    name: str
    service: FeatureService
    label: str
    baseline: tuple[str, ...] = ()
    epochs: int = 6
    seed: int = 7
    owner: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        checked_name("training job", self.name)
        if isinstance(self.baseline, str):
            raise DefinitionError(
                f"training job {self.name!r} has baseline={self.baseline!r}; write names, as ({self.baseline!r},)"
            )
        if self.epochs < 1:
            raise DefinitionError(f"training job {self.name!r} has {self.epochs} epochs; use at least 1")


def typed_column(name: str, values: pa.Array, kind: DataType) -> pa.Array:
    """What a caller gave for a column, as its type; raises WrongTypeError."""
    decimals = decimal_type(kind)
    try:
        return values.cast(ARROW_TYPES[kind]) if decimals is None else as_decimals(values, decimals)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise WrongTypeError(name, kind, str(values.type), str(error)) from error
    except ValueError as error:
        raise WrongTypeError(name, kind, str(values.type), str(error)) from error


def _typed(owner: str, kind: object) -> DataType:
    if isinstance(kind, Hashable) and kind in _PYTHON_TYPES:
        return _PYTHON_TYPES[kind]
    decimals = decimal_type(kind) if isinstance(kind, str) else None
    if decimals is not None:
        if not (1 <= decimals.precision <= PRECISION_MAX and decimals.scale <= decimals.precision):
            raise DefinitionError(
                f"{owner} has type {kind!r}; a decimal has 1 to {PRECISION_MAX} digits, and no more of them after the "
                f"point, such as 'decimal(12, 2)'"
            )
        return decimals.text
    raise DefinitionError(f"{owner} has type {kind!r}; use one of str, int, float, bool, 'timestamp', 'decimal(12, 2)'")


def _between(least: object, most: object) -> str:
    return f"at most {most}" if least is None else f"at least {least}" if most is None else f"{least} to {most}"


def _expressions(
    owner: str, written: Mapping[str, object], types: Mapping[str, ValueType], *, chained: bool = False
) -> dict[str, Expression]:
    """Authors' expressions, each over columns of these types (and, if chained, those before it), named unlike them."""
    out: dict[str, Expression] = {}
    for name, each in written.items():
        if chained:
            types = {**types, **{before: made.dtype for before, made in out.items()}}
        if checked_name("column", name) in types:
            raise DefinitionError(f"{owner} is called {name!r}, which is there already; choose another name")
        if isinstance(each, Expression):
            out[name] = each
            continue
        out[name] = expression(f"{owner} {name!r}", said(f"{owner} {name!r}", each), types)
    return out


Definition = Entity | Topic | FeatureView | FeatureService | TrainingJob
