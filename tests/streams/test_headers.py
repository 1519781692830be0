"""Any client may send any header: one whose name is no text is no word of ours, and stops nobody who reads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from confluent_kafka import cimpl

from featurestore.local import LocalStack
from streams.broker import Broker
from streams.holes import records_in
from streams.tail import Tail
from tests.streams.transport.harness import make_topic

_PRODUCER, _OK = 0, 0
# Tags of librdkafka's producev.
_END, _TOPIC, _PARTITION, _VALUE, _HEADER = 0, 1, 3, 4, 9
_COPY, _FLAGS = 2, 7


def send_with_header(bootstrap: str, topic: str, name: bytes) -> None:
    """One record, by librdkafka itself: its Python client takes names that are text."""
    lib = ctypes.CDLL(cimpl.__file__)
    lib.rd_kafka_conf_new.restype = lib.rd_kafka_new.restype = ctypes.c_void_p
    conf, said = ctypes.c_void_p(lib.rd_kafka_conf_new()), ctypes.create_string_buffer(512)
    assert lib.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), said, ctypes.c_size_t(512)) == _OK
    client = ctypes.c_void_p(lib.rd_kafka_new(_PRODUCER, conf, said, ctypes.c_size_t(512)))
    assert client, said.value
    record = (
        *(ctypes.c_int(_TOPIC), ctypes.c_char_p(topic.encode())),
        *(ctypes.c_int(_PARTITION), ctypes.c_int32(0)),
        *(ctypes.c_int(_FLAGS), ctypes.c_int(_COPY)),
        *(ctypes.c_int(_VALUE), ctypes.c_char_p(b"{}"), ctypes.c_size_t(2)),
        *(ctypes.c_int(_HEADER), ctypes.c_char_p(name), ctypes.c_char_p(b"x"), ctypes.c_ssize_t(1)),
        ctypes.c_int(_END),
    )
    assert lib.rd_kafka_producev(client, *record) == _OK
    assert lib.rd_kafka_flush(client, 30_000) == _OK
    lib.rd_kafka_destroy(client)


def test_a_header_whose_name_is_no_text_is_none_of_ours(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = unique("headed")
    make_topic(stack.kafka_bootstrap, topic)
    send_with_header(stack.kafka_bootstrap, topic, b"\xff\xfe")
    assert records_in(Broker(stack.kafka_bootstrap), "us", topic, [(0, 0, 1)]) == [(0, 0)]
    with Tail(stack.kafka_bootstrap, "us", topic, {0: 0}) as tail:
        while not (batches := tail.read(1.0)):
            pass
    assert [list(batch.values) for batch in batches] == [[b"{}"]]
