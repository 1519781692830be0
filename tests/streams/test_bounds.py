"""What the broker holds of a topic, also where its definition knows of more."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from featurestore.errors import TopicError
from featurestore.local import LocalStack
from streams.bounds import Bounds, bounds_of
from streams.broker import admin_client
from streams.tail import Tail
from tests.streams.transport.harness import fill, make_topic


def read_on(tail: Tail, limit_s: float = 15.0) -> None:
    """Read until something is raised."""
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        tail.read(0.1)


def test_partitions_that_are_only_defined_have_no_bounds(
    stack: LocalStack, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = unique("narrow")
    make_topic(stack.kafka_bootstrap, topic, 2)
    fill(stack.kafka_bootstrap, topic, {0: 3})
    found = bounds_of(admin_client(stack.kafka_bootstrap), topic, range(4))
    assert found == {0: Bounds(0, 3), 1: Bounds(0, 0)}
    # Nor do they end who waits for them, as a topic does that is not there.
    monkeypatch.setattr("streams.tail._NEW_MS", 100)
    with Tail(stack.kafka_bootstrap, "", topic, dict.fromkeys(range(4), 0)) as tail:
        read, until_s = 0, time.monotonic() + 30
        while read < 3:
            assert time.monotonic() < until_s
            read += sum(len(batch.offsets) for batch in tail.read(0.1))
        for _ in range(10):
            assert not tail.read(0.1)
    with (
        pytest.raises(TopicError, match="the broker does not have it; see whether it was deleted"),
        Tail(stack.kafka_bootstrap, "", unique("nowhere"), {0: 0}) as tail,
    ):
        read_on(tail)
