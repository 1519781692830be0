"""What the broker holds of a topic, also where its definition knows of more."""

from __future__ import annotations

from collections.abc import Callable

from featurestore.local import LocalStack
from streams.bounds import Bounds, bounds_of
from streams.broker import admin_client
from tests.streams.transport.harness import fill, make_topic


def test_partitions_that_are_only_defined_have_no_bounds(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = unique("narrow")
    make_topic(stack.kafka_bootstrap, topic, 2)
    fill(stack.kafka_bootstrap, topic, {0: 3})
    found = bounds_of(admin_client(stack.kafka_bootstrap), topic, range(4))
    assert found == {0: Bounds(0, 3), 1: Bounds(0, 0)}
