"""Kafka topics: created from their definitions, and asked who they are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.cimpl import NewPartitions, NewTopic

from featurestore.errors import GrownTopicError, TopicError
from featurestore.spec import Topic
from streams.broker import Broker, admin_client, answer_of
from streams.dead_letters import LETTER_BYTES_MAX, dead_letter_topic
from streams.topic_ids import Told, TopicIds

_TIMEOUT_S = 30.0


class Topics:
    """The topics of one broker; raises BrokerError when it does not answer."""

    def __init__(self, broker: Broker | str) -> None:
        self._admin, self._broker = admin_client(broker), broker

    def create(self, topics: Iterable[Topic], project: str, replication: int = 1) -> list[str]:
        """Create what is missing, with the project's dead letters beside it, and add partitions; returns what is new.

        The broker stamps records itself (LogAppendTime): arrival is then the same for every reader, and for ever.
        """
        new, topics = [], list(topics)
        for topic in topics:
            stamped = {"message.timestamp.type": "LogAppendTime"}
            new.append(NewTopic(topic.name, topic.partitions, replication, config=stamped))
            letters = {"cleanup.policy": "compact", "max.message.bytes": str(LETTER_BYTES_MAX)}
            new.append(NewTopic(dead_letter_topic(topic.name, project), 1, replication, config=letters))
        made = []
        for name, done in self._admin.create_topics(new, operation_timeout=_TIMEOUT_S).items() if new else ():
            try:
                answer_of(done, _TIMEOUT_S)
                made.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise TopicError(name, str(error)) from error
        self._grow({topic.name: topic.partitions for topic in topics if topic.name not in made})
        return sorted(made)

    def _grow(self, wanted: dict[str, int]) -> None:
        """Add the partitions that definitions have more than the broker; there is no way to take any away."""
        if not wanted:
            return
        asked = self._admin.describe_topics(TopicCollection(list(wanted)), request_timeout=_TIMEOUT_S)
        held = {name: len(answer_of(done, _TIMEOUT_S).partitions) for name, done in asked.items()}
        more = [NewPartitions(name, count) for name, count in wanted.items() if count > held[name]]
        for name, done in self._admin.create_partitions(more, operation_timeout=_TIMEOUT_S).items() if more else ():
            try:
                answer_of(done, _TIMEOUT_S)
            except KafkaException as error:
                raise TopicError(name, str(error)) from error

    def ids(self, names: Iterable[str]) -> dict[str, str]:
        """Identity of each topic: a topic that was deleted and created again has another one.

        Raises TopicError for a topic that the broker does not have. Safe to ask from any thread.
        """
        return self._asked.of(names)

    def told(self, names: Iterable[str]) -> dict[str, Told]:
        """Identity and number of partitions of each topic; raises as `ids`, and is as safe."""
        return self._asked.told(names)

    def whole_ids(self, topics: Iterable[Topic]) -> dict[str, str]:
        """As `ids`, for who is to read topics whole.

        Raises GrownTopicError where the broker has more partitions of one than its definition says, too.
        """
        wanted = {topic.name: topic for topic in topics}
        told = self.told(wanted)
        for name, topic in wanted.items():
            if told[name].partitions > topic.partitions:
                raise GrownTopicError(name, topic.partitions, told[name].partitions)
        return {name: each.id for name, each in told.items()}

    @cached_property
    def _asked(self) -> TopicIds:
        """Only for those who ask. Of two threads that are the first, each makes one, and one of these goes at once."""
        return TopicIds(self._broker)
