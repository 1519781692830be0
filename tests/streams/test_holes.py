"""Which offsets hold a record: no end of a transaction does, nothing that was aborted, no copy for another project."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Producer

from featurestore.local import LocalStack
from streams.broker import Broker, client_config
from streams.headers import REPLAYED_FOR
from streams.holes import records_in
from tests.streams.transport.harness import LIMIT_S, make_topic


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
