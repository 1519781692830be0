"""Definitions -> Feast's SQL registry: entities, sources, views, services, with schema, tags and owner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import feast
from feast.data_format import JsonFormat
from feast.infra.registry.sql import SqlRegistry, SqlRegistryConfig
from feast.types import Array, Bool, Decimal, Float64, Int64, Map, PrimitiveFeastType, String, UnixTimestamp
from sqlalchemy.exc import SQLAlchemyError

from featurestore.errors import SettingError
from featurestore.event_time import show_duration
from featurestore.kernel import DataType, Feature, ValueType, decimal_type
from featurestore.kernel.expressions import shown
from featurestore.settings import Settings
from featurestore.spec import Entity, FeatureService, FeatureView, Repository, Topic
from featurestore.urls import shown_url

_TYPES: dict[DataType, PrimitiveFeastType] = {
    "string": String,
    "int64": Int64,
    "float64": Float64,
    "bool": Bool,
    "timestamp": UnixTimestamp,
}
_PYTHON_TYPES = {"string": feast.ValueType.STRING, "int64": feast.ValueType.INT64, "bool": feast.ValueType.BOOL}


@dataclass(frozen=True)
class Registered:
    """One object as Feast's own API lists it."""

    kind: str
    name: str
    schema: tuple[str, ...]
    tags: dict[str, str]
    owner: str


class FeastRegistry:
    """Feast's registry of one project, at any SQLAlchemy address."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._project = settings, settings.project
        if settings.registry_url.startswith("sqlite:///"):
            Path(settings.registry_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        config = SqlRegistryConfig(registry_type="sql", path=settings.registry_url, cache_ttl_seconds=0)
        try:
            self._registry = SqlRegistry(config, self._project, None)
        # A URL that is none, a driver that is not installed, a server that does not answer.
        except (SQLAlchemyError, ModuleNotFoundError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise SettingError(
                "registry_url",
                f"is {shown_url(settings.registry_url)!r}, and no registry can be opened there: {why}; write one such "
                "as sqlite:///.local/registry.db or postgresql+psycopg://user:password@host/database",
            ) from error

    def close(self) -> None:
        """Give the connections back."""
        for engine in {self._registry.write_engine, self._registry.read_engine}:
            engine.dispose()

    def __enter__(self) -> FeastRegistry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def apply(self, repository: Repository) -> list[str]:
        """Make the registry say what the repository says; returns a line a change."""
        before = {(one.kind, one.name): one for one in self.listing()}
        wanted = self._objects(repository)
        # Feast refuses a view whose entities or sources it does not know: parts first.
        for kind, thing in wanted:
            if kind == "entity":
                self._registry.apply_entity(thing, self._project, commit=True)
            elif kind == "source":
                self._registry.apply_data_source(thing, self._project, commit=True)
            elif kind == "view":
                self._registry.apply_feature_view(thing, self._project, commit=True)
            else:
                self._registry.apply_feature_service(thing, self._project, commit=True)
        kept = {(kind, thing.name) for kind, thing in wanted}
        for kind, name in sorted(set(before) - kept, key=lambda gone: _ORDER.index(gone[0]), reverse=True):
            self._delete(kind, name)
        after = {(one.kind, one.name): one for one in self.listing()}
        return sorted(
            [f"+ {kind} {name}" for kind, name in set(after) - set(before)]
            + [f"- {kind} {name}" for kind, name in set(before) - set(after)]
            + [
                f"~ {kind} {name}"
                for (kind, name) in set(after) & set(before)
                if after[kind, name] != before[kind, name]
            ]
        )

    def listing(self) -> list[Registered]:
        """What Feast's own API lists, read fresh."""
        registry, project = self._registry, self._project
        views = registry.list_feature_views(project)
        return [
            *(
                Registered("entity", e.name, (e.join_key,), dict(e.tags), e.owner)
                for e in registry.list_entities(project)
            ),
            *(Registered("source", s.name, (), dict(s.tags), s.owner) for s in registry.list_data_sources(project)),
            *(Registered("view", v.name, _schema(v.schema), dict(v.tags), v.owner) for v in views),
            *(
                Registered("service", s.name, _projected(s.feature_view_projections), dict(s.tags), s.owner)
                for s in registry.list_feature_services(project)
            ),
        ]

    def _objects(self, repository: Repository) -> list[tuple[str, Any]]:
        # Of each entity by itself: another one may have a key of the same name and another type.
        types = {(v.entity.name, key): v.source.schema[key] for v in repository.views.values() for key in v.entity.keys}
        entities = {part.name: part for entity in repository.entities.values() for part in _entities(entity, types)}
        sources = {topic.name: self._source(topic) for topic in repository.topics.values()}
        views = {
            view.name: _view(view, [entities[part] for part in _entity_names(view.entity)], sources[view.source.name])
            for view in repository.views.values()
        }
        services = [_service(service, views) for service in repository.services.values()]
        return [
            *(("entity", entity) for entity in entities.values()),
            *(("source", source) for source in sources.values()),
            *(("view", view) for view in views.values()),
            *(("service", service) for service in services),
        ]

    def _source(self, topic: Topic) -> feast.KafkaSource:
        log = str(Path(self._settings.offline_path) / topic.name)
        tags = {**topic.tags, "featurestore.format": topic.format}
        if topic.contract:
            tags["featurestore.contract"] = "; ".join(f"{column}: {said}" for column, said in topic.contract.items())
        return feast.KafkaSource(
            name=topic.name,
            timestamp_field=topic.event_time,
            message_format=JsonFormat(", ".join(f"{name} {kind}" for name, kind in topic.schema.items())),
            kafka_bootstrap_servers=self._settings.kafka_bootstrap,
            topic=topic.name,
            batch_source=feast.FileSource(name=f"{topic.name}-log", path=log, timestamp_field=topic.event_time),
            owner=topic.owner,
            description=topic.description,
            tags=tags,
        )

    def _delete(self, kind: str, name: str) -> None:
        delete = {
            "entity": self._registry.delete_entity,
            "source": self._registry.delete_data_source,
            "view": self._registry.delete_feature_view,
            "service": self._registry.delete_feature_service,
        }[kind]
        delete(name, self._project, commit=True)


_ORDER = ("entity", "source", "view", "service")


def _entity_names(entity: Entity) -> list[str]:
    # A Feast entity has one join key: an entity of several keys becomes one Feast entity a key.
    return [entity.name] if len(entity.keys) == 1 else [f"{entity.name}-{key}" for key in entity.keys]


def _entities(entity: Entity, types: dict[tuple[str, str], DataType]) -> list[feast.Entity]:
    return [
        feast.Entity(
            name=name,
            join_keys=[key],
            value_type=_PYTHON_TYPES.get(types.get((entity.name, key), "string"), feast.ValueType.UNIX_TIMESTAMP),
            owner=entity.owner,
            description=entity.description,
            tags=dict(entity.tags),
        )
        for name, key in zip(_entity_names(entity), entity.keys, strict=True)
    ]


def _view(view: FeatureView, entities: list[feast.Entity], source: feast.KafkaSource) -> feast.FeatureView:
    keys = [feast.Field(name=key, dtype=_TYPES[view.source.schema[key]]) for key in view.entity.keys]
    features = [feast.Field(name=name, dtype=_feast_type(kind)) for name, kind in view.outputs.items()]
    tags = {
        **view.tags,
        "featurestore.version": view.version,
        "featurestore.lateness": show_duration(view.lateness_us),
        "featurestore.features": "; ".join(f"{name}={_said(view, name)}" for name in view.features),
    }
    decimals = [f"{name}={kind}" for name, kind in view.outputs.items() if "decimal" in kind]
    if decimals:
        tags["featurestore.decimals"] = "; ".join(decimals)
    return feast.FeatureView(
        name=view.name,
        entities=entities,
        schema=[*keys, *features],
        source=source,
        ttl=timedelta(microseconds=view.max_age_us or 0),
        online=view.online,
        owner=view.owner,
        description=view.description,
        tags=tags,
    )


def _feast_type(kind: ValueType) -> Any:
    if kind.startswith("map<"):
        return Map
    if kind.startswith("list<"):
        return Array(_feast_type(kind[5:-1]))
    # Feast keeps decimals as text, and does not say how many digits they have: a tag of the view does.
    return _TYPES[kind] if decimal_type(kind) is None else Decimal


def _said(view: FeatureView, name: str) -> str:
    return _written(view.features[name])


def _written(feature: Feature) -> str:
    over = [each if isinstance(each, str) else each.label for each in feature.windows]
    parts = [_written(part) for part in feature.parts]
    arguments = [str(each) for each in (feature.column, feature.other, feature.argument) if each is not None]
    where = [f"where={shown(feature.where)}"] if feature.where is not None else []
    function = feature.function if isinstance(feature.function, str) else feature.function.name
    return f"{function}({', '.join([*parts, *arguments, *where])})" + (f".over({', '.join(over)})" if over else "")


def _service(service: FeatureService, views: dict[str, feast.FeatureView]) -> feast.FeatureService:
    chosen = [views[s.view.name][list(s.features)] for s in service.selections]
    return feast.FeatureService(
        name=service.name,
        features=chosen,
        owner=service.owner,
        description=service.description,
        tags={**service.tags, "featurestore.version": service.version},
    )


def _schema(fields: Iterable[feast.Field]) -> tuple[str, ...]:
    return tuple(sorted(f"{field.name}: {field.dtype}" for field in fields))


def _projected(projections: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted(f"{each.name}:{field.name}" for each in projections for field in each.features))
