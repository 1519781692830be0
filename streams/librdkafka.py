"""librdkafka's public C interface, as much of it as a consumer (`transport/native.py`) and the question who the topics
are (`topic_ids.py`) need.

It is the very library that `confluent_kafka` brings or was built with: asked for through its extension module, the
loader finds it among what that module depends on, wherever it lies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from ctypes import POINTER, Structure, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition, cimpl

from featurestore.errors import TransportError

PRODUCER, CONSUMER = 0, 1
CONF_OK = 0
# Destroying a client that was not closed leaves no group.
NO_CONSUMER_CLOSE = 0x8
TEXT_MAX = 512
# What options of a request are for.
DESCRIBE_TOPICS = 19


class Message(Structure):
    """A record, or an error that rides among the records: then `payload` is its text."""

    _fields_ = (
        ("err", c_int),
        ("topic", c_void_p),
        ("partition", c_int32),
        ("payload", c_void_p),
        ("size", c_size_t),
        ("key", c_void_p),
        ("key_size", c_size_t),
        ("offset", c_int64),
        ("private", c_void_p),
    )


class _Partition(Structure):
    _fields_ = (
        ("topic", c_char_p),
        ("partition", c_int32),
        ("offset", c_int64),
        ("metadata", c_void_p),
        ("metadata_size", c_size_t),
        ("opaque", c_void_p),
        ("err", c_int),
        ("private", c_void_p),
    )


class _Partitions(Structure):
    _fields_ = (("count", c_int), ("size", c_int), ("each", POINTER(_Partition)))


Partitions = POINTER(_Partitions)

# Callbacks, all called from within `consume`, `commit` and `close`, by the thread that calls these.
RebalanceCallback = ctypes.CFUNCTYPE(None, c_void_p, c_int, Partitions, c_void_p)
CommitCallback = ctypes.CFUNCTYPE(None, c_void_p, c_int, Partitions, c_void_p)
ErrorCallback = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_void_p)
StatisticsCallback = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p)
LogCallback = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)

_FUNCTIONS: dict[str, tuple[Any, ...]] = {  # name -> result, arguments
    "conf_new": (c_void_p,),
    "conf_destroy": (None, c_void_p),
    "conf_set": (c_int, c_void_p, c_char_p, c_char_p, c_char_p, c_size_t),
    "conf_set_rebalance_cb": (None, c_void_p, RebalanceCallback),
    "conf_set_offset_commit_cb": (None, c_void_p, CommitCallback),
    "conf_set_error_cb": (None, c_void_p, ErrorCallback),
    "conf_set_stats_cb": (None, c_void_p, StatisticsCallback),
    "conf_set_log_cb": (None, c_void_p, LogCallback),
    "new": (c_void_p, c_int, c_void_p, c_char_p, c_size_t),
    "name": (c_char_p, c_void_p),
    "set_log_queue": (c_int, c_void_p, c_void_p),
    "poll_set_consumer": (c_int, c_void_p),
    "queue_get_consumer": (c_void_p, c_void_p),
    "queue_new": (c_void_p, c_void_p),
    "queue_poll": (c_void_p, c_void_p, c_int),
    "queue_destroy": (None, c_void_p),
    "consumer_close": (c_int, c_void_p),
    "destroy": (None, c_void_p),
    "destroy_flags": (None, c_void_p, c_int),
    "yield": (None, c_void_p),
    "last_error": (c_int,),
    "err2str": (c_char_p, c_int),
    "fatal_error": (c_int, c_void_p, c_char_p, c_size_t),
    "error_code": (c_int, c_void_p),
    "error_string": (c_char_p, c_void_p),
    "error_destroy": (None, c_void_p),
    "subscribe": (c_int, c_void_p, Partitions),
    "assign": (c_int, c_void_p, Partitions),
    "incremental_assign": (c_void_p, c_void_p, Partitions),
    "incremental_unassign": (c_void_p, c_void_p, Partitions),
    "assignment_lost": (c_int, c_void_p),
    "rebalance_protocol": (c_char_p, c_void_p),
    "seek_partitions": (c_void_p, c_void_p, Partitions, c_int),
    "pause_partitions": (c_int, c_void_p, Partitions),
    "resume_partitions": (c_int, c_void_p, Partitions),
    "commit": (c_int, c_void_p, Partitions, c_int),
    "query_watermark_offsets": (c_int, c_void_p, c_char_p, c_int32, POINTER(c_int64), POINTER(c_int64), c_int),
    "topic_partition_list_new": (Partitions, c_int),
    "topic_partition_list_add": (POINTER(_Partition), Partitions, c_char_p, c_int32),
    "topic_partition_list_destroy": (None, Partitions),
    "topic_partition_set_leader_epoch": (None, POINTER(_Partition), c_int32),
    "topic_name": (c_char_p, c_void_p),
    "consume_batch_queue": (ctypes.c_ssize_t, c_void_p, c_int, c_void_p, c_size_t),
    "message_errstr": (c_char_p, c_void_p),
    "message_timestamp": (c_int64, c_void_p, POINTER(c_int)),
    "message_leader_epoch": (c_int32, c_void_p),
    "message_destroy": (None, c_void_p),
    "message_headers": (c_int, c_void_p, POINTER(c_void_p)),
    "header_get_last": (c_int, c_void_p, c_char_p, POINTER(c_void_p), POINTER(c_size_t)),
    "AdminOptions_new": (c_void_p, c_void_p, c_int),
    "AdminOptions_set_request_timeout": (c_int, c_void_p, c_int, c_char_p, c_size_t),
    "AdminOptions_destroy": (None, c_void_p),
    "TopicCollection_of_topic_names": (c_void_p, POINTER(c_char_p), c_size_t),
    "TopicCollection_destroy": (None, c_void_p),
    "DescribeTopics": (None, c_void_p, c_void_p, c_void_p, c_void_p),
    "event_error": (c_int, c_void_p),
    "event_error_string": (c_char_p, c_void_p),
    "event_DescribeTopics_result": (c_void_p, c_void_p),
    "event_destroy": (None, c_void_p),
    "DescribeTopics_result_topics": (POINTER(c_void_p), c_void_p, POINTER(c_size_t)),
    "TopicDescription_name": (c_char_p, c_void_p),
    "TopicDescription_error": (c_void_p, c_void_p),
    "TopicDescription_topic_id": (c_void_p, c_void_p),
    "TopicDescription_partitions": (POINTER(c_void_p), c_void_p, POINTER(c_size_t)),
    "Uuid_base64str": (c_char_p, c_void_p),
}


@dataclass(frozen=True, slots=True)
class Answered:
    """What the group said to the offset of a partition; in a `TopicPartition` nobody else can write the error down."""

    topic: str
    partition: int
    offset: int
    error: KafkaError | None


# Words of Python's own.
_NAMES = {"yield": "serve_no_more"}


class Library:
    """Each function by its name without `rd_kafka_`; calls let go of the interpreter's lock. `library` has the one."""

    def __init__(self) -> None:
        loaded = ctypes.CDLL(cimpl.__file__)
        for name, (result, *arguments) in _FUNCTIONS.items():
            try:
                function = getattr(loaded, f"rd_kafka_{name}")
            except AttributeError as error:
                what = f"confluent_kafka was built in a way that hides librdkafka's function rd_kafka_{name}"
                raise TransportError(f"{what}; install its wheel, or build it with a shared librdkafka") from error
            function.restype, function.argtypes = result, arguments
            setattr(self, _NAMES.get(name, name), function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def check(self, code: int) -> None:
        """Raises KafkaException for what a function returned."""
        if code:
            raise KafkaException(self.error(code))

    def check_error(self, error: int | None) -> None:
        """The same for functions that return an error object, which is let go of."""
        if error is not None:
            code, text = self.error_code(error), self.error_string(error)
            self.error_destroy(error)
            raise KafkaException(KafkaError(code, _text(text)))

    def conf(self, options: Mapping[str, Any]) -> int:
        """Options as C has them; they end with the client that is made of them.

        Raises KafkaException for those that librdkafka refuses, TransportError for those that need a function of ours.
        """
        texts = {name: _option(name, value) for name, value in options.items()}
        made, text = self.conf_new(), ctypes.create_string_buffer(TEXT_MAX)
        for name, value in texts.items():
            held = None if value is None else value.encode()
            if self.conf_set(made, name.encode(), held, text, TEXT_MAX) != CONF_OK:
                self.conf_destroy(made)
                raise KafkaException(self.error(KafkaError._INVALID_ARG, text.value))
        return int(made)

    def client(self, kind: int, conf: int) -> int:
        """A client, of which `destroy` lets go. Raises KafkaException."""
        text = ctypes.create_string_buffer(TEXT_MAX)
        made = self.new(kind, conf, text, TEXT_MAX)
        if made is None:
            error = self.error(self.last_error(), b"Failed to create client: " + text.value)
            self.conf_destroy(conf)
            raise KafkaException(error)
        return int(made)

    def error(self, code: int, text: bytes | None = None) -> KafkaError:
        return KafkaError(code, _text(self.err2str(code) if text is None else text))

    def topics(self, names: Sequence[str]) -> int:
        """As C has them; whoever asks lets go of them by `TopicCollection_destroy`."""
        held = _texts(len(names))(*(name.encode() for name in names))
        return int(self.TopicCollection_of_topic_names(held, len(names)))

    def partitions(self, places: Iterable[TopicPartition]) -> Any:
        """As C has them; whoever asks lets go of them by `topic_partition_list_destroy`."""
        held = list(places)
        made = self.topic_partition_list_new(len(held))
        for place in held:
            one = self.topic_partition_list_add(made, place.topic.encode(), place.partition)
            one.contents.offset = place.offset
            if place.leader_epoch is not None:
                self.topic_partition_set_leader_epoch(one, place.leader_epoch)
        return made

    def places(self, partitions: Any) -> list[TopicPartition]:
        """As `confluent_kafka` has them."""
        return [TopicPartition(_text(one.topic), one.partition, one.offset) for one in _each(partitions)]

    def answers(self, partitions: Any) -> list[Answered]:
        return [
            Answered(_text(one.topic), one.partition, one.offset, self.error(one.err) if one.err else None)
            for one in _each(partitions)
        ]


@lru_cache(maxsize=1)
def library() -> Library:
    return Library()


def address_of(function: Any) -> int:
    """Where a function lies, for loops that call it."""
    return ctypes.cast(function, c_void_p).value or 0


@lru_cache(maxsize=16)
def _texts(count: int) -> Any:
    """The type of an array, kept: Python would make it anew each time, and let go of it only when it collects."""
    return c_char_p * count


def _option(name: str, value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str | int | float):
        return None if value is None else str(value)
    what = f"option {name!r} of librdkafka is to be a text or a number, and is of type {type(value).__name__}"
    raise TransportError(f"{what}; functions of one's own are not called, so such a login is not possible here")


def _each(partitions: Any) -> list[Any]:
    return [partitions.contents.each[index] for index in range(partitions.contents.count)] if partitions else []


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")
