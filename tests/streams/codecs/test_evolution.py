"""Writers change before or after the definition does: what their events become, format by format."""

from __future__ import annotations

import base64
import io
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from google.protobuf import timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from featurestore import Topic
from streams.codecs import Decoded, codec_of
from streams.codecs.protobuf import ProtobufReader, SchemaFile, protobuf_schema
from streams.schemas import FolderSchemas, WrittenSchema
from tests.streams.codecs.conftest import rows

TOPIC = {"schema": {"who": str, "at": "timestamp", "x": float, "n": int}, "event_time": "at", "nullable": ("x", "n")}
NUMBERS = FieldDescriptorProto


NESTED = {
    "type": "array",
    "items": {
        "type": "record",
        "name": "Item",
        "fields": [
            {"name": "who", "type": {"type": "enum", "name": "Who", "symbols": ["a", "b"]}},
            {"name": "is_new", "type": ["null", "boolean"]},
        ],
    },
}


@pytest.fixture
def schemas(tmp_path: Path) -> FolderSchemas:
    return FolderSchemas(tmp_path)


def avro(schemas: FolderSchemas, fields: list[Any], *events: dict[str, Any], **said: Any) -> Decoded:
    """Events of another writer, decoded for the topic."""
    schema = {"type": "record", "name": "elsewhere.Payment", "fields": fields}
    number = schemas.register("t-value", WrittenSchema("AVRO", json.dumps(schema)))
    records = []
    for event in events:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), event)
        records.append(b"\x00" + number.to_bytes(4, "big") + out.getvalue())
    return codec_of(Topic("t", format="avro", **{**TOPIC, **said}), schemas).decode(records)


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


WHO, AT = field("who", "string"), field("at", "long")


@pytest.mark.parametrize(
    ("fields", "event", "wanted"),
    [
        ([AT, WHO], {"who": "a", "at": 1}, {"who": "a", "at": 1, "x": None, "n": None}),  # reordered, without some
        ([WHO, AT, field("x", "int")], {"who": "a", "at": 1, "x": 7}, {"who": "a", "at": 1, "x": 7.0, "n": None}),
        ([WHO, AT, field("x", "long")], {"who": "a", "at": 1, "x": 2**53 + 1}, {"x": 2.0**53}),  # the nearest float
        ([WHO, AT, field("x", "float")], {"who": "a", "at": 1, "x": 0.5}, {"x": 0.5}),
        ([WHO, AT, field("n", "int")], {"who": "a", "at": 1, "n": -7}, {"n": -7}),
        ([WHO, AT, field("n", ["long", "null"])], {"who": "a", "at": 1, "n": None}, {"n": None}),
        ([WHO, AT, field("more", {"type": "array", "items": "string"})], {"who": "a", "at": 1, "more": ["b"]}, {}),
        # A type that is defined in a field of nobody, and named in one of the contract, alone and in a union.
        (
            [field("more", NESTED), field("who", "Who"), AT, field("m", {"type": "map", "values": "Item"})],
            {"more": [{"who": "a", "is_new": None}], "who": "b", "at": 1, "m": {"k": {"who": "a", "is_new": True}}},
            {"who": "b", "at": 1},
        ),
        (
            [field("more", NESTED), field("who", ["null", "elsewhere.Who", "string"]), field("at", ["int", "long"])],
            {"more": [], "who": "b", "at": 2**40},
            {"who": "b", "at": 2**40},
        ),
        (
            [field("who", {"type": "enum", "name": "Who", "symbols": ["a", "b"]}), AT],
            {"who": "b", "at": 1},
            {"who": "b"},
        ),
        (
            [WHO, field("at", {"type": "long", "logicalType": "timestamp-millis"})],
            {"who": "a", "at": 1_767_225_600_001},
            {"at": 1_767_225_600_001_000},
        ),
        (
            [WHO, field("at", ["null", {"type": "long", "logicalType": "timestamp-nanos"}])],
            {"who": "a", "at": 1_999},
            {"at": 1},
        ),
    ],
)
def test_avro_that_can_become_the_definition_does(
    schemas: FolderSchemas, fields: list[Any], event: dict[str, Any], wanted: dict[str, Any]
) -> None:
    decoded = avro(schemas, fields, event)
    assert not decoded.rejected
    assert rows(decoded)[0].items() >= wanted.items()


@pytest.mark.parametrize(
    ("fields", "event", "said"),
    [
        ([AT], {"at": 1}, "has no field 'who'"),
        ([WHO, AT, field("n", "double")], {"who": "a", "at": 1, "n": 1.0}, "is double, which cannot become int64"),
        ([WHO, AT, field("n", "string")], {"who": "a", "at": 1, "n": "1"}, "is string, which cannot become int64"),
        ([field("who", "long"), AT], {"who": 1, "at": 1}, "is long, which cannot become string"),
        ([field("who", "bytes"), AT], {"who": b"a", "at": 1}, "is bytes, which cannot become string"),
        ([WHO, field("at", {"type": "int", "logicalType": "date"})], {"who": "a", "at": 1}, "int (date)"),
        (
            [WHO, field("at", {"type": "long", "logicalType": "local-timestamp-micros"})],
            {"who": "a", "at": 1},
            "cannot become timestamp",
        ),
        (
            [WHO, AT, field("more", {"type": "array", "items": "null"})],
            {"who": "a", "at": 1, "more": []},
            "items take no bytes",
        ),
        (
            [WHO, AT, field("more", {"type": "array", "items": {"type": "error", "name": "None", "fields": []}})],
            {"who": "a", "at": 1, "more": []},
            "items take no bytes",
        ),
        (
            [WHO, AT, field("more", {"type": "error", "name": "E", "fields": [field("e", ["null", "E"])]})],
            {"who": "a", "at": 1, "more": {"e": None}},
            "type 'elsewhere.E' is within itself",
        ),
        (
            [WHO, AT, field("more", ["null", "elsewhere.Payment"])],
            {"who": "a", "at": 1, "more": None},
            "is within itself",
        ),
    ],
)
def test_avro_that_cannot_is_a_dead_letter_that_says_why(
    schemas: FolderSchemas, fields: list[Any], event: dict[str, Any], said: str
) -> None:
    decoded = avro(schemas, fields, event)
    assert [one.reason for one in decoded.rejected] == ["incompatible_schema"]
    assert said in decoded.rejected[0].detail


def test_avro_types_of_one_short_name_are_told_apart_by_their_namespaces(schemas: FolderSchemas) -> None:
    def kind(space: str, *symbols: str) -> dict[str, Any]:
        return {"type": "enum", "name": "Kind", "namespace": space, "symbols": list(symbols)}

    def address(name: str, **more: Any) -> dict[str, Any]:
        # Its field means the enum of the namespace around it.
        return {"type": "record", "name": name, "fields": [field("of", "Kind")], **more}

    fields = [
        field("first", kind("shop.billing", "a", "b")),
        field("second", kind("shop.shipping", "c", "d")),
        field("bill", address("shop.billing.Address")),
        field("ship", address("Address", namespace="shop.shipping")),
        field("who", "shop.shipping.Kind"),
        AT,
    ]
    event = {"first": "b", "second": "c", "bill": {"of": "a"}, "ship": {"of": "d"}, "who": "d", "at": 1}
    decoded = avro(schemas, fields, event)
    assert [(row["who"], row["at"]) for row in rows(decoded)] == [("d", 1)]
    assert not decoded.rejected


def test_avro_values_of_a_union_are_judged_one_by_one(schemas: FolderSchemas) -> None:
    decoded = avro(
        schemas,
        [field("who", ["null", "string", "long"]), AT],
        {"who": "a", "at": 1},
        {"who": None, "at": 1},
        {"who": 7, "at": 1},
    )
    assert [row["who"] for row in rows(decoded)] == ["a"]
    assert [(one.index, one.reason) for one in decoded.rejected] == [(1, "missing_field"), (2, "wrong_type")]


def test_a_renamed_column_takes_what_is_written_under_its_former_names(schemas: FolderSchemas) -> None:
    renamed = {"x": ("amount", "sum"), "who": "user"}
    decoded = avro(
        schemas,
        [field("user", "string"), AT, field("sum", "double")],
        {"user": "a", "at": 1, "sum": 2.5},
        renamed=renamed,
    )
    assert rows(decoded) == [{"who": "a", "at": 1, "x": 2.5, "n": None}]
    record = ipc(pa.table({"user": ["a"], "at": [1], "amount": [2.5]}))
    decoded = codec_of(Topic("t", format="arrow", renamed=renamed, **TOPIC)).decode([record])
    assert rows(decoded) == [{"who": "a", "at": 1, "x": 2.5, "n": None}]


def test_one_batch_may_have_events_of_many_schemas(schemas: FolderSchemas) -> None:
    old, new = Topic("t", format="avro", **{**TOPIC, "schema": {"who": str, "at": "timestamp"}, "nullable": ()}), TOPIC
    before = codec_of(old, schemas).encode([{"who": "a", "at": 1}, {"who": "b", "at": 2}])
    codec = codec_of(Topic("t", format="avro", **new), schemas)
    after = codec.encode([{"who": "c", "at": 3, "x": 1.5}, {"who": "d", "at": 4}])
    decoded = codec.decode([before[0], after[0], b"\x00", before[1], after[1]])
    assert [row["who"] for row in rows(decoded)] == ["a", "c", "b", "d"]
    assert [row["x"] for row in rows(decoded)] == [None, 1.5, None, None]
    assert decoded.index.tolist() == [0, 1, 3, 4]
    assert [one.index for one in decoded.rejected] == [2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_dead_letter_although_a_format_can_say_it(schemas: FolderSchemas, value: float) -> None:
    fields = [("who", 1, NUMBERS.TYPE_STRING), ("at", 2, NUMBERS.TYPE_INT64), ("x", 3, NUMBERS.TYPE_FLOAT)]
    for decoded in (
        avro(schemas, [WHO, AT, field("x", "double")], {"who": "a", "at": 1, "x": value}),
        proto(schemas, proto_file(*fields), b"\x00", "shop.Payment", who="a", at=1, x=value),
        arrow(ipc(pa.table({"who": ["a"], "at": [1], "x": pa.array([value], pa.float32())}))),
    ):
        assert [one.reason for one in decoded.rejected] == ["wrong_type"]
        assert not len(decoded.index)


# --- Protobuf ---------------------------------------------------------------------------------------------------------


def proto(schemas: FolderSchemas, file: FileDescriptorProto, path: bytes, message: str, **values: Any) -> Decoded:
    number = schemas.register("t-value", WrittenSchema("PROTOBUF", base64.b64encode(file.SerializeToString()).decode()))
    pool = DescriptorPool()
    for known in (timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    event = GetMessageClass(pool.FindMessageTypeByName(message))(**values)
    record = b"\x00" + number.to_bytes(4, "big") + path + event.SerializeToString()
    return codec_of(Topic("t", format="protobuf", **TOPIC), schemas).decode([record])


def proto_file(*fields: tuple[str, int, Any], syntax: str = "proto3", name: str = "Payment") -> FileDescriptorProto:
    file = FileDescriptorProto(name="payment.proto", package="shop", syntax=syntax)
    message = file.message_type.add(name=name)
    for field_name, number, kind in fields:
        label = NUMBERS.LABEL_REPEATED if isinstance(kind, list) else NUMBERS.LABEL_OPTIONAL
        kind = kind[0] if isinstance(kind, list) else kind
        if isinstance(kind, str):
            message.field.add(name=field_name, number=number, type=NUMBERS.TYPE_MESSAGE, type_name=kind, label=label)
            known = {"Timestamp": "google/protobuf/timestamp.proto"}
            needed = known.get(kind.rpartition(".")[2], "google/protobuf/wrappers.proto")
            if needed not in file.dependency:
                file.dependency.append(needed)
        else:
            message.field.add(name=field_name, number=number, type=kind, label=label)
    return file


def test_protobuf_is_read_by_the_names_of_its_writer_whatever_their_numbers(schemas: FolderSchemas) -> None:
    file = proto_file(
        ("n", 9, NUMBERS.TYPE_SINT32),
        ("x", 4, NUMBERS.TYPE_FLOAT),
        ("who", 200, NUMBERS.TYPE_STRING),
        ("at", 1, ".google.protobuf.Timestamp"),
        ("more", 2, [NUMBERS.TYPE_STRING]),
    )
    moment = {"seconds": 1_767_225_600, "nanos": 1_999}
    decoded = proto(schemas, file, b"\x00", "shop.Payment", n=-3, x=0.5, who="a", at=moment, more=["b", "c"])
    assert rows(decoded) == [{"who": "a", "at": 1_767_225_600_000_001, "x": 0.5, "n": -3}]


def test_protobuf_tells_a_missing_value_from_a_zero_where_its_writer_does(schemas: FolderSchemas) -> None:
    fields = [("who", 1, NUMBERS.TYPE_STRING), ("at", 2, NUMBERS.TYPE_INT64), ("n", 3, NUMBERS.TYPE_INT64)]
    wrapped = ("x", 4, ".google.protobuf.DoubleValue")
    plain = rows(proto(schemas, proto_file(*fields, wrapped), b"\x00", "shop.Payment", who="a"))
    assert plain == [{"who": "a", "at": 0, "x": None, "n": 0}]
    told = proto(schemas, proto_file(*fields, wrapped, syntax="proto2"), b"\x00", "shop.Payment", who="a", at=1)
    assert rows(told) == [{"who": "a", "at": 1, "x": None, "n": None}]
    missing = proto(schemas, proto_file(*fields, syntax="proto2"), b"\x00", "shop.Payment", who="a")
    assert [one.reason for one in missing.rejected] == ["missing_field"]


def test_protobuf_events_may_be_a_message_within_a_message(schemas: FolderSchemas) -> None:
    file = proto_file(("who", 1, NUMBERS.TYPE_STRING), ("at", 2, NUMBERS.TYPE_INT64), name="Inner")
    inner = file.message_type.pop()
    file.message_type.add(name="First")
    outer = file.message_type.add(name="Outer")
    outer.nested_type.add(name="Zero")
    outer.nested_type.append(inner)
    # Two numbers, then places 1 and 1: zigzag as Confluent writes them.
    decoded = proto(schemas, file, b"\x04\x02\x02", "shop.Outer.Inner", who="a", at=5)
    assert rows(decoded) == [{"who": "a", "at": 5, "x": None, "n": None}]
    decoded = proto(schemas, file, b"\x04\x02\x06", "shop.Outer.Inner", who="a", at=5)
    assert [one.reason for one in decoded.rejected] == ["incompatible_schema"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (proto_file(("at", 2, NUMBERS.TYPE_INT64)), "has no field 'who'"),
        (
            proto_file(("who", 1, [NUMBERS.TYPE_STRING]), ("at", 2, NUMBERS.TYPE_INT64)),
            "is repeated, which cannot become string",
        ),
        (proto_file(("who", 1, NUMBERS.TYPE_BYTES), ("at", 2, NUMBERS.TYPE_INT64)), "is bytes"),
        (proto_file(("who", 1, NUMBERS.TYPE_STRING), ("at", 2, NUMBERS.TYPE_DOUBLE)), "is double"),
    ],
)
def test_protobuf_that_cannot_is_a_dead_letter_that_says_why(
    schemas: FolderSchemas, file: FileDescriptorProto, said: str
) -> None:
    [one] = proto(schemas, file, b"\x00", "shop.Payment").rejected
    assert one.reason == "incompatible_schema"
    assert said in one.detail


def test_what_no_contract_names_of_a_protobuf_event_is_not_made() -> None:
    file = proto_file(
        ("who", 1, NUMBERS.TYPE_STRING),
        ("at", 2, ".google.protobuf.Timestamp"),
        ("needed", 5, NUMBERS.TYPE_STRING),
        syntax="proto2",
    )
    message = file.message_type[0]
    message.field[2].label = NUMBERS.LABEL_REQUIRED
    message.nested_type.add(name="Item").field.add(
        name="x", number=1, type=NUMBERS.TYPE_DOUBLE, label=NUMBERS.LABEL_OPTIONAL
    )
    message.field.add(
        name="items",
        number=3,
        type=NUMBERS.TYPE_MESSAGE,
        type_name=".shop.Payment.Item",
        label=NUMBERS.LABEL_REPEATED,
    )
    written = WrittenSchema("PROTOBUF", base64.b64encode(file.SerializeToString()).decode())
    reader = ProtobufReader(Topic("t", format="protobuf", **TOPIC), SchemaFile(written, 1), (0,), 1)
    # Two bytes stand for each of the items.
    event = reader.read(b"\x0a\x01a" + b"\x12\x02\x08\x05" + b"\x1a\x00" * 1_000)
    assert reader.column("at", [event]) == [5_000_000]
    assert [each.name for each, _ in event.ListFields()] == ["who", "at"]
    assert sorted(event.DESCRIPTOR.fields_by_name) == ["at", "who"]


@pytest.mark.parametrize("kind", [NUMBERS.TYPE_STRING, NUMBERS.TYPE_MESSAGE, NUMBERS.TYPE_ENUM])
def test_of_a_protobuf_oneof_the_last_that_is_there_counts(schemas: FolderSchemas, kind: Any) -> None:
    file = proto_file(("who", 1, NUMBERS.TYPE_STRING), ("at", 2, NUMBERS.TYPE_INT64))
    message = file.message_type[0]
    message.nested_type.add(name="Other").field.add(
        name="n", number=1, type=NUMBERS.TYPE_INT64, label=NUMBERS.LABEL_OPTIONAL
    )
    message.enum_type.add(name="Kind").value.add(name="NONE", number=0)
    for name in ("unread", "choice"):
        message.oneof_decl.add(name=name)
    named = {NUMBERS.TYPE_MESSAGE: ".shop.Payment.Other", NUMBERS.TYPE_ENUM: ".shop.Payment.Kind"}.get(kind)
    for name, number, other, at in (("y", 7, NUMBERS.TYPE_BOOL, 0), ("n", 3, NUMBERS.TYPE_INT64, 1), ("z", 4, kind, 1)):
        added = message.field.add(name=name, number=number, type=other, label=NUMBERS.LABEL_OPTIONAL, oneof_index=at)
        if name == "z" and named:
            added.type_name = named
    other = b"\x20\x00" if kind == NUMBERS.TYPE_ENUM else b"\x22\x00"
    number = schemas.register("t-value", WrittenSchema("PROTOBUF", base64.b64encode(file.SerializeToString()).decode()))
    head = b"\x00" + number.to_bytes(4, "big") + b"\x00" + b"\x0a\x01a\x10\x05"
    records = [head + b"\x18\x07" + other, head + other + b"\x18\x07", head]
    decoded = codec_of(Topic("t", format="protobuf", **TOPIC), schemas).decode(records)
    assert [row["n"] for row in rows(decoded)] == [None, 7, None]


def test_columns_whose_names_differ_in_underscores_alone_are_told_apart(schemas: FolderSchemas) -> None:
    topic = Topic("t", {"x1": int, "x_1": int, "at": "timestamp"}, "at", format="protobuf")
    codec = codec_of(topic, schemas)
    assert rows(codec.decode(codec.encode([{"x1": 1, "x_1": 2, "at": 5}]))) == [{"x1": 1, "x_1": 2, "at": 5}]


def test_our_own_protobuf_fields_keep_their_numbers_and_none_is_used_again(schemas: FolderSchemas) -> None:
    def numbers(file: FileDescriptorProto) -> dict[str, int]:
        return {each.name: each.number for each in file.message_type[0].field}

    first = protobuf_schema(Topic("t", format="protobuf", **TOPIC))
    assert numbers(first) == {"who": 1, "at": 2, "x": 3, "n": 4}
    changed = {"new": str, "n": int, "at": "timestamp", "user": str}
    second = protobuf_schema(
        Topic("t", changed, "at", format="protobuf", nullable=("n", "new"), renamed={"user": "who"}), first
    )
    assert numbers(second) == {"new": 5, "n": 4, "at": 2, "user": 1}
    back = Topic("t", format="protobuf", **TOPIC)
    third = protobuf_schema(back, second)
    assert numbers(third) == {"who": 6, "at": 2, "x": 7, "n": 4}
    assert protobuf_schema(back, third) == third
    # A restart of the same producer registers nothing new.
    event = {"who": "a", "at": 1}
    assert codec_of(back, schemas).encode([event]) == codec_of(back, schemas).encode([event])


def test_what_no_contract_names_of_an_avro_event_is_not_made(schemas: FolderSchemas) -> None:
    event = {"who": "a", "at": 1, "more": [{"who": "b", "is_new": None}] * 20_000}
    tracemalloc.start()
    try:
        decoded = avro(schemas, [WHO, AT, field("more", NESTED)], event)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [row["who"] for row in rows(decoded)] == ["a"]
    # As a dictionary each of the items would take two hundred bytes and more.
    assert most < 2_000_000


# --- Arrow ------------------------------------------------------------------------------------------------------------


def ipc(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as stream:
        stream.write_table(table, max_chunksize=2)
    return bytes(sink.getvalue().to_pybytes())


def arrow(*records: bytes, **said: Any) -> Decoded:
    return codec_of(Topic("t", format="arrow", **{**TOPIC, **said})).decode(list(records))


def test_arrow_takes_wider_and_narrower_types_of_one_kind() -> None:
    table = pa.table(
        {
            "n": pa.array([1, None, 3], pa.int16()),
            "x": pa.array([2**53 + 1, 1, None], pa.uint64()),
            "at": pa.array([1, 2, 3], pa.timestamp("ms", tz="Europe/Paris")),
            "who": pa.array(["a", "b", "a"]).dictionary_encode(),
            "more": pa.array([[1], [], None]),
        }
    )
    assert rows(arrow(ipc(table, options=pa.ipc.IpcWriteOptions(compression="zstd")))) == [
        {"who": "a", "at": 1_000, "x": 2.0**53, "n": 1},
        {"who": "b", "at": 2_000, "x": 1.0, "n": None},
        {"who": "a", "at": 3_000, "x": None, "n": 3},
    ]
    text = pa.table({"who": pa.array(["ä"], pa.string_view()), "at": pa.array([1_999], pa.timestamp("ns", tz="UTC"))})
    assert rows(arrow(ipc(text)))[0] == {"who": "ä", "at": 1, "x": None, "n": None}


def test_a_bad_row_of_an_arrow_record_is_rejected_alone_and_the_others_keep_their_places() -> None:
    table = pa.table(
        {
            "who": ["a", None, "c", "d", "e"],
            "at": pa.array([1, 2, 2**60, 4, -5], pa.timestamp("us", tz="UTC")),
            "n": pa.array([1, 2, 3, 2**64 - 1, 5], pa.uint64()),
        }
    )
    decoded = arrow(b"no stream", ipc(table.slice(0, 1)), ipc(table))
    assert decoded.index.tolist() == [1, 2]
    assert decoded.position is not None
    assert decoded.position.tolist() == [0, 0]
    assert [(one.index, one.position, one.reason) for one in decoded.rejected] == [
        (0, None, "broken_arrow"),
        (2, 1, "missing_field"),
        (2, 2, "wrong_type"),
        (2, 3, "wrong_type"),
        (2, 4, "wrong_type"),
    ]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (pa.table({"who": ["a"]}), "incompatible_schema"),
        (pa.table({"who": [1], "at": [1]}), "incompatible_schema"),
        (pa.table({"who": ["a"], "at": pa.array([1], pa.timestamp("us"))}), "incompatible_schema"),
        (pa.table({"who": ["a"], "at": [1.0]}), "incompatible_schema"),
        (pa.table({"who": ["a"], "at": [1], "n": [True]}), "incompatible_schema"),
        (pa.table({"who": ["a"], "at": [1]}).slice(0, 0), "no_events"),
        (pa.table([["a"], ["b"], [1]], names=["who", "who", "at"]), "incompatible_schema"),
    ],
)
def test_an_arrow_record_without_the_columns_of_the_contract_is_rejected_whole(table: pa.Table, reason: str) -> None:
    decoded = arrow(ipc(table))
    assert [(one.index, one.position, one.reason) for one in decoded.rejected] == [(0, None, reason)]
    assert len(decoded.index) == 0


def test_arrow_text_that_is_not_utf8_rejects_its_record() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]
    )
    decoded = arrow(ipc(pa.table({"who": broken, "at": [1]})))
    assert [one.reason for one in decoded.rejected] == ["broken_arrow"]


def test_an_arrow_stream_that_was_never_closed_may_lack_batches_and_is_rejected() -> None:
    whole = ipc(pa.table({"who": ["a", "b", "c"], "at": [1, 2, 3]}))
    assert len(arrow(whole).index) == 3
    # Without its last eight bytes it still reads, as it would without its last batch.
    assert [one.reason for one in arrow(whole[:-8]).rejected] == ["broken_arrow"]
