"""Which offsets hold a record: no end of a transaction does, nothing that was aborted, no copy for another project."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from confluent_kafka import Producer, TopicPartition

from featurestore.local import LocalStack
from streams.broker import Broker, client_config
from streams.headers import REPLAYED_FOR
from streams.holes import records_in
from streams.transport.native import NativeConsumer
from tests.streams.transport.harness import LIMIT_S, fill, make_topic


def test_what_lies_in_gaps(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = unique("holes")
    make_topic(stack.kafka_bootstrap, topic, 2)
    producer = Producer({**client_config(stack.kafka_bootstrap), "transactional.id": topic})
    producer.init_transactions(LIMIT_S)

    def transaction(count: int, *, project: str | None = None, is_kept: bool = True) -> None:
        """So many records, and behind them the offset of the transaction's end."""
        producer.begin_transaction()
        for _ in range(count):
            headers = None if project is None else [(REPLAYED_FOR, project.encode())]
            producer.produce(topic, b"{}", partition=1, headers=headers)
        producer.flush()
        (producer.commit_transaction if is_kept else producer.abort_transaction)(LIMIT_S)

    transaction(3)
    transaction(2, is_kept=False)
    transaction(1)
    transaction(1, project="them")
    gaps = [(1, 1, 5), (1, 3, 7), (1, 5, 9), (1, 8, 11), (0, 0, 1)]
    broker = Broker(stack.kafka_bootstrap)
    assert records_in(broker, "us", topic, gaps) == [(1, 1), (1, 2), (1, 7)]
    assert records_in(broker, "them", topic, gaps) == [(1, 1), (1, 2), (1, 7), (1, 9)]


class Counted(NativeConsumer):
    """Notes where it began to read."""

    def __init__(self, begun: list[int], config: Mapping[str, Any], project: str) -> None:
        super().__init__(config, project)
        self.begun = begun

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.begun.extend(place.offset for place in partitions)
        super().assign(partitions)


def test_gaps_near_each_other_are_read_in_one_pass_and_what_lies_far_between_is_passed_over(
    stack: LocalStack, unique: Callable[[str], str]
) -> None:
    topic, begun = unique("holes"), list[int]()
    make_topic(stack.kafka_bootstrap, topic, 1)
    producer = Producer({**client_config(stack.kafka_bootstrap), "transactional.id": topic})
    producer.init_transactions(LIMIT_S)

    def transactions(count: int) -> None:
        for _ in range(count):
            producer.begin_transaction()
            producer.produce(topic, b"{}", partition=0)
            producer.commit_transaction(LIMIT_S)

    # Each has a record at an even offset, and its end at the odd one behind.
    transactions(200)
    fill(stack.kafka_bootstrap, topic, {0: 30_000})
    transactions(100)
    far = 30_400
    ends = [*range(1, 400, 2), *range(far + 1, far + 200, 2)]
    gaps = [*((0, offset, offset + 1) for offset in ends), (0, 100, 102), (0, far + 50, far + 60)]
    found = records_in(Broker(stack.kafka_bootstrap), "us", topic, gaps, partial(Counted, begun))
    assert found == [(0, offset) for offset in [100, *range(far + 50, far + 60, 2)]]
    assert begun == [1, far + 1]
