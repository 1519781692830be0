"""Who the topics of a broker are, and how many partitions they have, asked of librdkafka itself.

`AdminClient.describe_topics` of confluent_kafka (up to 2.16.1 at least) never lets go of the object that it makes of
each topic's id: 200 bytes a topic and call, and a worker asks twice a second for as long as it lives.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterable
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException

from featurestore.errors import BrokerError, TopicError
from streams import librdkafka as c
from streams.broker import GRACE_S, Broker, client_config

# Of waiting in C, where no signal is handled.
_PIECE_MS = 250


class Told(NamedTuple):
    """What the broker says of a topic: one that was deleted and created again has another identity."""

    id: str
    partitions: int


class TopicIds:
    """A client of its own, which ends with this.

    timeout_s  of a question, whatever the broker does; librdkafka ends it then, and if not, we do `GRACE_S` later

    Safe to ask from any thread, and from several at once. A question has a queue of its own, which ends with it: an
    answer that comes later finds none, and is never taken for that to another question. Who asks holds this meanwhile,
    so the client is there for as long as C is at work, also where the process ends under a daemon thread that asks.

    Raises KafkaException for options that librdkafka refuses.
    """

    def __init__(self, broker: Broker | str, timeout_s: float = 30.0) -> None:
        self._client: int | None = None
        self._at, self._timeout_s = str(broker), timeout_s
        self._c = lib = c.library()
        options = client_config(broker)
        # Nobody fetches what this client logs from its queue, which would grow. Others of the process complain alike.
        del options["logger"]
        self._client = lib.client(c.PRODUCER, lib.conf({**options, "log_level": 0}))
        self._options: int = lib.AdminOptions_new(self._client, c.DESCRIBE_TOPICS)
        lib.check(lib.AdminOptions_set_request_timeout(self._options, int(timeout_s * 1_000), None, 0))

    def __del__(self) -> None:
        if getattr(self, "_client", None) is not None:
            self._c.AdminOptions_destroy(self._options)
            self._c.destroy(self._client)

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """Identity of each topic; raises as `told`."""
        return {name: told.id for name, told in self.told(names).items()}

    def told(self, names: Iterable[str]) -> dict[str, Told]:
        """Identity and number of partitions of each topic.

        Raises TopicError for a topic that the broker does not have, BrokerError for all else.
        """
        wanted, lib = list(names), self._c
        queue = lib.queue_new(self._client)
        try:
            topics = lib.topics(wanted)
            lib.DescribeTopics(self._client, topics, self._options, queue)
            lib.TopicCollection_destroy(topics)
            event = self._answer(queue)
            try:
                return self._read(event, len(wanted))
            finally:
                lib.event_destroy(event)
        except KafkaException as error:
            raise BrokerError(self._at, error.args[0].str()) from error
        finally:
            lib.queue_destroy(queue)

    def _answer(self, queue: int) -> int:
        # The request's own end comes first, and says who was silent.
        deadline = time.monotonic() + self._timeout_s + GRACE_S
        while True:
            event: int | None = self._c.queue_poll(queue, _PIECE_MS)
            if event is not None:
                return event
            if time.monotonic() > deadline:
                raise KafkaException(self._c.error(KafkaError._TIMED_OUT))

    def _read(self, event: int, count: int) -> dict[str, Told]:
        """What an answer says, all of which is C's, and gone with the event."""
        lib, size = self._c, ctypes.c_size_t()
        code = lib.event_error(event)
        if code:
            raise KafkaException(lib.error(code, lib.event_error_string(event)))
        told = lib.DescribeTopics_result_topics(lib.event_DescribeTopics_result(event), ctypes.byref(size))
        topics = [topic for topic in told[: size.value] if topic is not None]
        if len(topics) < count:
            # C has holes where the broker left topics out.
            raise KafkaException(lib.error(KafkaError._BAD_MSG))
        return dict(map(self._told, topics))

    def _told(self, topic: int) -> tuple[str, Told]:
        lib, size = self._c, ctypes.c_size_t()
        name, error = lib.TopicDescription_name(topic).decode(), lib.TopicDescription_error(topic)
        code = lib.error_code(error)
        if code:
            refused = KafkaException(lib.error(code, lib.error_string(error)))
            if code != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise refused
            raise TopicError(name, f"{refused}; run `featurestore apply` to create it") from refused
        lib.TopicDescription_partitions(topic, ctypes.byref(size))
        return name, Told(lib.Uuid_base64str(lib.TopicDescription_topic_id(topic)).decode(), size.value)
