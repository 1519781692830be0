"""A definitions repository: a folder of Python files whose module-level values are the definitions.

This is the only code of users that ever runs, and it comes from their own repository at a known commit.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from featurestore.errors import DefinitionError, FeatureStoreError, UnknownObjectError
from featurestore.spec.objects import Entity, FeatureService, FeatureView, Topic, TrainingJob

_Kind = TypeVar("_Kind", Entity, Topic, FeatureView, FeatureService, TrainingJob)


@dataclass(frozen=True)
class Repository:
    """All definitions by kind and name."""

    entities: Mapping[str, Entity] = field(default_factory=dict)
    topics: Mapping[str, Topic] = field(default_factory=dict)
    views: Mapping[str, FeatureView] = field(default_factory=dict)
    services: Mapping[str, FeatureService] = field(default_factory=dict)
    jobs: Mapping[str, TrainingJob] = field(default_factory=dict)

    def topic(self, name: str) -> Topic:
        return _named("topic", name, self.topics)

    def view(self, name: str) -> FeatureView:
        return _named("feature view", name, self.views)

    def job(self, name: str) -> TrainingJob:
        return _named("training job", name, self.jobs)

    def service(self, name: str) -> FeatureService:
        """The service of this name; a view's name stands for a service of all its features."""
        found = self.services.get(name) or self._of_views.get(name)
        if found is None:
            raise UnknownObjectError("feature service or view", name, [*self.services, *self.views])
        return found

    @cached_property
    def _of_views(self) -> dict[str, FeatureService]:
        # Once, since every lookup asks.
        return {name: FeatureService(name, (view,), owner=view.owner) for name, view in self.views.items()}

    def views_of(self, topic: str) -> tuple[FeatureView, ...]:
        return tuple(view for view in self.views.values() if view.source.name == topic)


def collect(values: Iterable[object]) -> Repository:
    """The repository of these values, and of all that they mention; anything else is ignored.

    Raises DefinitionError where they do not go together.
    """
    found: list[object] = []
    for value in values:
        found.extend(_with_parts(value))
    repository = Repository(
        _by_name("entity", found, Entity),
        _by_name("topic", found, Topic),
        _by_name("feature view", found, FeatureView),
        _by_name("feature service", found, FeatureService),
        _by_name("training job", found, TrainingJob),
    )
    _check_entities(repository.views.values())
    return repository


def load(folder: Path) -> Repository:
    """Read every `*.py` of a folder, in order of name; raises DefinitionError that names the file."""
    if not folder.is_dir():
        raise DefinitionError(f"there is no definitions folder {str(folder)!r}; set `definitions` in featurestore.toml")
    values: list[object] = []
    package = f"_definitions_{blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()}"
    root = ModuleType(package)
    root.__path__ = [str(folder)]
    # Files import one another as `from .aircraft import aircraft`; a fresh load must not see an earlier one's modules.
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[name]
    sys.modules[package] = root
    # Python takes what it compiled for as good as a file of the same second and size; an author's next try may be one.
    is_kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[-1] != "__init__":
                values.extend(vars(_module(".".join((package, *parts)), path)).values())
    finally:
        sys.dont_write_bytecode = is_kept
    return collect(values)


def _module(name: str, path: Path) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except FeatureStoreError as error:
        raise DefinitionError(f"{path}: {error}") from error
    except Exception as error:  # an author's file may fail in any way; the message names the file
        raise DefinitionError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return module


def _with_parts(value: object) -> list[object]:
    if isinstance(value, FeatureView):
        return [value, value.entity, value.source]
    if isinstance(value, FeatureService):
        return [value, *(part for selection in value.selections for part in _with_parts(selection.view))]
    if isinstance(value, TrainingJob):
        return [value, *_with_parts(value.service)]
    return [value]


def _by_name(kind: str, values: list[object], wanted: type[_Kind]) -> dict[str, _Kind]:
    out: dict[str, _Kind] = {}
    for value in values:
        if isinstance(value, wanted) and out.setdefault(value.name, value) != value:
            raise DefinitionError(f"two different definitions name the {kind} {value.name!r}; rename one of them")
    return dict(sorted(out.items()))


def _check_entities(views: Iterable[FeatureView]) -> None:
    """What names one entity is of one type, whichever topic tells of it; Feast knows no other entities."""
    first: dict[tuple[str, str], FeatureView] = {}
    for view in views:
        for key in view.entity.keys:
            other = first.setdefault((view.entity.name, key), view)
            kind, before = view.source.schema[key], other.source.schema[key]
            if kind != before:
                raise DefinitionError(
                    f"key {key!r} of entity {view.entity.name!r} is {before} in view {other.name!r} and {kind} in view "
                    f"{view.name!r}; give one of the views an entity of its own"
                )


_Named = TypeVar("_Named")


def _named(kind: str, name: str, known: Mapping[str, _Named]) -> _Named:
    if name not in known:
        raise UnknownObjectError(kind, name, known)
    return known[name]
