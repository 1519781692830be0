"""Faust on librdkafka: the transport behind `rdkafka://` addresses.

Enter: topics of a Kafka broker. Leave: `Batch` values, one event of an agent each. Promise: batches of a
partition follow each other without a hole from the offset that the sinks hold, and the group is told no more
than what every sink has.
"""

from __future__ import annotations

from typing import Any, ClassVar

import confluent_kafka
from faust.transport import base

from featurestore.errors import TransportError
from streams.transport.agent import Agent
from streams.transport.batch import Batch
from streams.transport.consumer import Consumer, Port
from streams.transport.options import ReaderOptions
from streams.transport.ranges import Place
from streams.transport.statistics import ReaderCounts, Statistics

__all__ = [
    "Agent",
    "Batch",
    "Consumer",
    "Place",
    "Port",
    "Producer",
    "ReaderCounts",
    "ReaderOptions",
    "Statistics",
    "Transport",
]


class Producer(base.Producer):
    """Faust wants one; events are sent by the producer SDK, which checks them first."""

    async def send(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        raise TransportError(f"cannot send to {topic!r} through Faust; use streams.producer.EventProducer")

    async def send_and_wait(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        return await self.send(topic)

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        raise TransportError(f"topic {topic!r} does not exist; run `featurestore apply` first")

    def key_partition(self, topic: str, key: bytes) -> Any:
        raise TransportError("partitions are chosen by the producer SDK")

    async def flush(self) -> None:
        """Nothing is ever pending."""

    def supports_headers(self) -> bool:
        return False


class Transport(base.Transport):
    """Entry point `faust.transports: rdkafka`."""

    Consumer: ClassVar[type[Consumer]] = Consumer
    Producer: ClassVar[type[Producer]] = Producer
    default_port = 9092
    driver_version = f"confluent-kafka={confluent_kafka.__version__}"
