"""Real servers for all tests: one Kafka and one Valkey a session."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import redis

from featurestore.local import LocalStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with LocalStack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def redis_client(stack: LocalStack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack.redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """A name that no other test of the session uses."""
    numbers = itertools.count(1)
    return lambda stem: f"{stem}-{next(numbers)}"
