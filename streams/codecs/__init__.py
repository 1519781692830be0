"""Codecs: bytes of records <-> columns of a topic's schema, one file a format.

Enter: records. Leave: columns of the events that keep their topic's contract, and the reason of each other one.
Promise: no bytes make a codec raise, and what `encode` gives `decode` takes.
"""

from __future__ import annotations

from typing import assert_never

from featurestore.errors import SchemaRegistryError
from featurestore.spec import Topic
from streams.codecs.codec import Codec, Decoded
from streams.codecs.contract import ContractCodec
from streams.codecs.json import JsonCodec
from streams.codecs.rejections import Rejected, Rejections
from streams.schemas import Schemas

__all__ = ["Codec", "Decoded", "Rejected", "Rejections", "codec_of"]


def codec_of(topic: Topic, schemas: Schemas | None = None) -> Codec:
    """The codec of a topic's format, which holds events to its whole contract.

    schemas  for avro and protobuf: where the schemas of their events are
    """
    codec = _format(topic, schemas)
    return ContractCodec(codec, topic) if topic.contract else codec


def _format(topic: Topic, schemas: Schemas | None) -> Codec:
    # Each format brings a library: it is imported where a topic uses it.
    if topic.format == "json":
        return JsonCodec(topic)
    if topic.format == "arrow":
        from streams.codecs.arrow import ArrowCodec

        return ArrowCodec(topic)
    if schemas is None:
        raise SchemaRegistryError("nowhere", f"topic {topic.name!r} is {topic.format} and was given no schema registry")
    if topic.format == "avro":
        from streams.codecs.avro import AvroCodec

        return AvroCodec(topic, schemas)
    if topic.format == "protobuf":
        from streams.codecs.protobuf import ProtobufCodec

        return ProtobufCodec(topic, schemas)
    assert_never(topic.format)
