"""The transport's share of a worker's `/metrics`: what librdkafka says of itself, and what the reader counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from featurestore.event_time import SECOND_US
from streams.transport import ReaderCounts, Statistics


class TransportMetrics:
    """Reads at every look; changes nothing."""

    def __init__(self, counts: Callable[[], ReaderCounts], statistics: Callable[[], Statistics]) -> None:
        self._counts, self._statistics = counts, statistics

    def collect(self) -> Iterator[Metric]:
        """Called by Prometheus' client at every look."""
        counts, said = self._counts(), self._statistics()
        prefix = "featurestore_transport_"
        for name, meaning, value in (
            ("batches", "Batches handed to agents, again ones too", counts.batches),
            ("records", "Records in them", counts.records),
            ("rebalances", "Times that partitions came, went or were lost", counts.rebalances),
            ("pauses", "Partitions paused because too much waited", counts.pauses),
            ("seeks", "Times that a partition was read again from earlier", counts.seeks),
            ("commits_refused", "Offsets that the group did not take at once", counts.commits_refused),
            ("received_records", "Records that came from brokers, thrown away or not", said.received_records),
            ("received_bytes", "Bytes of them", said.received_bytes),
        ):
            yield CounterMetricFamily(prefix + name, meaning, value=value)
        for name, meaning, value in (
            ("waiting_records", "Records read and not handed out", counts.waiting_records),
            ("waiting_bytes", "Bytes of them", counts.waiting_bytes),
            ("in_hand_batches", "Batches handed out and not finished", counts.in_hand),
            ("in_hand_bytes", "Bytes of them", counts.in_hand_bytes),
            ("fetch_queue_bytes", "Fetched by librdkafka and not read", said.fetch_queue_bytes),
            ("paused_partitions", "Partitions that are paused", counts.paused),
        ):
            yield GaugeMetricFamily(prefix + name, meaning, value=value)
        trip = GaugeMetricFamily(
            prefix + "broker_round_trip_seconds", "Round trips of the last second", labels=["broker", "quantile"]
        )
        up = GaugeMetricFamily(prefix + "broker_up", "Whether we are connected to it", labels=["broker"])
        for broker in said.brokers:
            up.add_metric([broker.name], float(broker.is_up))
            trip.add_metric([broker.name, "mean"], broker.rtt_avg_us / SECOND_US)
            trip.add_metric([broker.name, "0.99"], broker.rtt_p99_us / SECOND_US)
        yield from (trip, up)
