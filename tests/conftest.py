"""Real servers for all tests: one Kafka and one Valkey a session."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import Phase, settings

from featurestore.local import LocalStack
from tests.project import Project

# Planted faults need to be found, not explained: shrinking would take most of the time.
settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """What the processes that tests start are spared: they are some hundred, and short.

    Where the environment forbids Python to keep what it compiled, it is kept in pytest's cache. Otherwise each of them
    would compile the same libraries again, which takes longer than all else that it does until it is ready. And a
    broker that lives for minutes compiles its own code once, quickly, and not again to be faster for weeks.
    """
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is not None and os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str(cache.mkdir("bytecode"))
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with servers first, so that no long one runs alone at the end."""

    def is_short(item: pytest.Item) -> tuple[bool, bool]:
        return item.get_closest_marker("servers") is None, "stack" not in getattr(item, "fixturenames", ())

    items.sort(key=is_short)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with LocalStack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def redis_client(stack: LocalStack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack.redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def project(stack: LocalStack, tmp_path: Path, unique: Callable[[str], str]) -> Iterator[Callable[..., Project]]:
    """Makes projects; their workers end with the test."""
    made: list[Project] = []

    def make(definitions: str, **settings: object) -> Project:
        name = unique("project")
        made.append(Project(stack, tmp_path / name, name, definitions, **settings))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """A name that no other test of the session uses."""
    numbers = itertools.count(1)
    return lambda stem: f"{stem}-{next(numbers)}"
