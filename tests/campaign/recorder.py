"""Sends, and what the broker acknowledged of them: the only thing that the oracle believes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

_FLUSH_S = 120.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One acknowledged record, as its delivery report tells it; `stamp_ms` is the broker's clock."""

    topic: str
    partition: int
    offset: int
    stamp_ms: int
    payload: bytes | None


class Recorder:
    """An idempotent producer of its own that remembers every acknowledged record; safe to use from several threads."""

    def __init__(self, bootstrap: str, **config: Any) -> None:
        self._config = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
            "message.timeout.ms": 120_000,
            # New partitions are seen soon.
            "topic.metadata.refresh.interval.ms": 1_000,
            # What it complains of is what happens here.
            "log_level": 0,
            **config,
        }
        self._producer = Producer(self._config)
        self._lock = threading.Lock()
        self._sent: list[Sent] = []
        self._pending: list[Sent] | None = None
        self.refused: list[str] = []

    def send(self, topic: str, payload: bytes | None, key: bytes | None = None, partition: int = -1) -> bool:
        """Queue a record; False when the client itself refuses it."""
        while True:
            try:
                self._producer.produce(topic, payload, key, partition, on_delivery=self._delivered)
                self._producer.poll(0)
                return True
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                self.refused.append(str(error.args[0].name()))
                return False

    def flush(self) -> None:
        """Until every record was acknowledged or refused."""
        left = self._producer.flush(_FLUSH_S)
        if left:
            raise TimeoutError(f"{left} records were neither acknowledged nor refused within {_FLUSH_S:.0f} s")

    def begin(self) -> None:
        """Begin a transaction; the producer has a `transactional.id` then."""
        if self._pending is None:
            self._producer.init_transactions(30.0)
        self._pending = []
        self._producer.begin_transaction()

    def end(self, commit: bool) -> None:
        """Records of an aborted transaction were never sent, as far as the oracle knows."""
        self.flush()
        assert self._pending is not None
        if commit:
            self._producer.commit_transaction(30.0)
            with self._lock:
                self._sent += self._pending
        else:
            self._producer.abort_transaction(30.0)
        self._pending = []

    def sent(self) -> list[Sent]:
        """All that was acknowledged so far."""
        with self._lock:
            return list(self._sent)

    def keep(self, held: Mapping[tuple[str, int], set[int]]) -> None:
        """Compaction took records away before anybody read them: forget those that the broker no longer has."""
        with self._lock:
            self._sent = [one for one in self._sent if one.offset in held.get((one.topic, one.partition), ())]

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.refused.append(str(error.name()))
            return
        one = Sent(message.topic(), message.partition(), message.offset(), message.timestamp()[1], message.value())
        with self._lock:
            (self._sent if self._pending is None else self._pending).append(one)
