"""Row 40: writers whose schemas are not ours, in JSON, in Avro and in Protobuf."""

from __future__ import annotations

import base64
import io
import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import fastavro
from google.protobuf import timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from featurestore.spec.contract import Format
from streams.schemas import FolderSchemas, Kind, WrittenSchema
from tests.campaign import payments
from tests.campaign.faults.bad_input import good, run
from tests.campaign.verdict import expect, row
from tests.campaign.world import World

# The column may be written under this name too, in the formats that can say so.
_RENAMED = {"cents": "pennies"}
_UNKNOWN_ID = 4_000_000
# No event at all: what the oracle reads where the bytes cannot become the contract's columns.
_DEAD = b""


class Writer(NamedTuple):
    """Another writer's schema and an event of it, each by what differs from ours.

    fields  name -> type in its schema, in the words of the format; None: it has no such field
    values  name -> what it writes
    means   column -> what that is by docs/codecs.md; None: a dead letter
    """

    fields: dict[str, Any]
    values: dict[str, Any]
    means: dict[str, Any] | None


@row(
    40,
    "schema drift",
    "fields new, missing, renamed, retyped in JSON, Avro, Protobuf; unknown schema ids, one of them known later",
    "taken, null, or dead, by contract",
)
def drift(world: World) -> str:
    plain = world.beside("json")
    plain.define(partitions=1)
    seen = [f"JSON: {run(plain, _json())}"]
    plain.stop()
    for others in (_Avro, _Protobuf):
        of = world.beside(others.format)
        of.define(partitions=1, format=others.format, renamed=_RENAMED)
        seen.append(f"{others.format.capitalize()}: {_framed(of, others(of))}")
        of.stop()
    return "; ".join(seen)


def _json() -> Iterator[bytes]:
    changed: list[dict[str, Any]] = [
        good(new_field={"deep": [1, 2]}),
        good(shop=None),
        good(amount=None),
        good(cents="5"),
        good(cents=5.0),
        good(cents=True),
        good(amount="1.5"),
        good(amount=3),
        good(user=7),
        good(user=None),
        good(at="2026-01-01T00:00:00Z"),
        good(at="2026-01-01T00:00:00"),
        good(at="2026-01-01"),
        good(at=1.5),
        good(at=str(payments.now_us())),
        good(at=None),
        good(User="u2"),
    ]
    for name in payments.COLUMNS:
        changed.append({key: value for key, value in good().items() if key != name})
        changed.append({(f"{key}_id" if key == name else key): value for key, value in good().items()})
    for one in changed:
        yield json.dumps(one).encode()
    yield _frame(_UNKNOWN_ID, json.dumps(good()).encode())


def _framed(world: World, others: _Writers) -> str:
    """Every writer's event, and frames that are wrong; then one of a schema that was unknown until then."""
    records = [others.record(writer) for writer in others.all()]
    known, written = others.register({}), others.path + others.write({}, good())
    records += [
        _frame(_UNKNOWN_ID, written),
        _frame(2**31, written),
        _frame(known, written, magic=1),
        _frame(known, written[:-1]),
        _frame(known, b""),
        _frame(known, written)[:3],
        _frame(others.register_other_kind(), written),
    ]
    newest = {"newest": others.whole}
    # A folder counts: this will be the id of the schema after the next.
    late = others.register(newest) + 1
    records.append(_frame(late, others.path + others.write(newest, good(newest=1))))
    run(world, records, ours=lambda number: others.record(Writer({}, user := {"user": f"u{number % 5}"}, user)))
    record = others.record(Writer({"late": others.whole}, {"late": 1}, {}))
    expect(record.startswith(_frame(late, b"")), f"the schema registered late has another id than {late}")
    recorder = world.recorder()
    recorder.send(world.topic, record, b"k", 0)
    recorder.flush()
    world.until_applied(60.0)
    return world.check()


class _Writers(ABC):
    """What other writers of a format do, and the bytes that they send.

    whole  the type of whole numbers, in the words of the format
    path   what stands between an id and an event
    """

    format: Format
    kind: Kind
    whole: Any
    path: bytes

    def __init__(self, world: World) -> None:
        self._world, self._schemas = world, FolderSchemas(world.settings.schema_address)

    def all(self) -> Iterator[Writer]:
        """Those of the format; those that lack a field, or have it under another name."""
        yield from self._retyped(payments.now_us())
        yield Writer({"cents": None, "pennies": self.whole}, {"pennies": 9}, {"cents": 9})
        for name, column in payments.COLUMNS.items():
            means = {name: None} if column.nullable else None
            yield Writer({name: None}, {}, means)
            yield Writer({name: None, f"{name}_id": self.whole}, {f"{name}_id": 1}, means)

    def record(self, writer: Writer) -> bytes:
        """A record of which the oracle is told what it means."""
        event = good()
        without = {name for name, kind in writer.fields.items() if kind is None}
        said = {name: value for name, value in {**event, **writer.values}.items() if name not in without}
        record = _frame(self.register(writer.fields), self.path + self.write(writer.fields, said))
        self._world.means[record] = _DEAD if writer.means is None else json.dumps({**event, **writer.means}).encode()
        return record

    def register(self, fields: dict[str, Any]) -> int:
        """A schema's id."""
        return self._schemas.register("payments", WrittenSchema(self.kind, self.text(fields)))

    def register_other_kind(self) -> int:
        """The id of a schema of JSON, which no topic of ours has."""
        return self._schemas.register("payments", WrittenSchema("JSON", "{}"))

    @abstractmethod
    def _retyped(self, at: int) -> list[Writer]:
        """Fields that are new, and of other types; `at` is a moment of now, in microseconds."""

    @abstractmethod
    def text(self, fields: dict[str, Any]) -> str:
        """A schema, as registries keep it."""

    @abstractmethod
    def write(self, fields: dict[str, Any], event: dict[str, Any]) -> bytes:
        """An event in a schema."""


class _Avro(_Writers):
    format, kind, whole, path = "avro", "AVRO", "long", b""

    def _retyped(self, at: int) -> list[Writer]:
        def moment(unit: str) -> dict[str, str]:
            return {"type": "long", "logicalType": f"timestamp-{unit}"}

        enum = {"type": "enum", "name": "Who", "symbols": ["u1", "u2"]}
        either = ["null", "long", "string"]
        return [
            Writer({"more": {"type": "array", "items": "string"}}, {"more": ["a", "b"]}, {}),
            Writer({"cents": "int"}, {}, {}),
            Writer({"cents": "double"}, {"cents": 5.0}, None),
            Writer({"cents": "string"}, {"cents": "5"}, None),
            Writer({"cents": "boolean"}, {"cents": True}, None),
            Writer({"cents": either}, {"cents": 7}, {"cents": 7}),
            Writer({"cents": either}, {"cents": None}, None),
            Writer({"cents": either}, {"cents": "7"}, None),
            Writer({"amount": "long"}, {"amount": 3}, {"amount": 3}),
            Writer({"amount": "int"}, {"amount": 3}, {"amount": 3}),
            Writer({"amount": "float"}, {"amount": 0.5}, {"amount": 0.5}),
            Writer({"amount": "double"}, {"amount": float("nan")}, None),
            Writer({"amount": "string"}, {"amount": "1.5"}, None),
            Writer({"user": enum}, {"user": "u2"}, {"user": "u2"}),
            Writer({"user": "long"}, {"user": 7}, None),
            Writer({"user": "bytes"}, {"user": b"u1"}, None),
            Writer({"user": ["null", "string"]}, {"user": None}, None),
            Writer({"at": moment("millis")}, {"at": at // 1_000}, {"at": at // 1_000 * 1_000}),
            Writer({"at": moment("nanos")}, {"at": at * 1_000 + 999}, {"at": at}),
            Writer({"at": "long"}, {}, {}),
            Writer({"at": "string"}, {"at": str(at)}, None),
            Writer({"at": "double"}, {"at": float(at)}, None),
        ]

    def text(self, fields: dict[str, Any]) -> str:
        return json.dumps(self._schema(fields))

    def write(self, fields: dict[str, Any], event: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(self._schema(fields)), event)
        return out.getvalue()

    def _schema(self, fields: dict[str, Any]) -> dict[str, Any]:
        ours = {
            "user": "string",
            "shop": ["null", "string"],
            "at": {"type": "long", "logicalType": "timestamp-micros"},
            "amount": ["null", "double"],
            "cents": "long",
        }
        named = [{"name": name, "type": kind} for name, kind in _with(fields, ours).items()]
        return {"type": "record", "name": "elsewhere.Payment", "fields": named}


_TYPE = FieldDescriptorProto


class _Protobuf(_Writers):
    # Its message is the first of its file.
    format, kind, whole, path = "protobuf", "PROTOBUF", _TYPE.TYPE_INT64, b"\x00"

    def _retyped(self, at: int) -> list[Writer]:
        stamp = {"seconds": at // 1_000_000, "nanos": at % 1_000_000 * 1_000 + 999}
        return [
            Writer({"more": _TYPE.TYPE_BYTES}, {"more": b"ab"}, {}),
            Writer({"cents": _TYPE.TYPE_SINT32}, {"cents": -5}, {"cents": -5}),
            Writer({"cents": _TYPE.TYPE_FIXED32}, {}, {}),
            Writer({"cents": _TYPE.TYPE_UINT64}, {"cents": 2**63 - 1}, {"cents": 2**63 - 1}),
            Writer({"cents": _TYPE.TYPE_UINT64}, {"cents": 2**63}, None),
            Writer({"cents": _TYPE.TYPE_DOUBLE}, {"cents": 5.0}, None),
            Writer({"cents": _TYPE.TYPE_STRING}, {"cents": "5"}, None),
            Writer({"cents": _TYPE.TYPE_BOOL}, {"cents": True}, None),
            Writer({"amount": _TYPE.TYPE_INT64}, {"amount": 3}, {"amount": 3}),
            Writer({"amount": _TYPE.TYPE_FLOAT}, {"amount": 0.5}, {"amount": 0.5}),
            Writer({"amount": ".google.protobuf.DoubleValue"}, {"amount": {"value": 2.5}}, {"amount": 2.5}),
            Writer({"amount": ".google.protobuf.DoubleValue"}, {"amount": None}, {"amount": None}),
            Writer({"amount": _TYPE.TYPE_DOUBLE}, {"amount": float("inf")}, None),
            Writer({"amount": _TYPE.TYPE_STRING}, {"amount": "1.5"}, None),
            Writer({"user": _TYPE.TYPE_INT64}, {"user": 7}, None),
            Writer({"user": _TYPE.TYPE_BYTES}, {"user": b"u1"}, None),
            Writer({"user": _TYPE.TYPE_STRING}, {"user": None}, None),
            Writer({"at": ".google.protobuf.Timestamp"}, {"at": stamp}, {"at": at}),
            Writer({"at": _TYPE.TYPE_STRING}, {"at": str(at)}, None),
            Writer({"at": _TYPE.TYPE_DOUBLE}, {"at": float(at)}, None),
        ]

    def text(self, fields: dict[str, Any]) -> str:
        return base64.b64encode(self._file(fields).SerializeToString()).decode()

    def write(self, fields: dict[str, Any], event: dict[str, Any]) -> bytes:
        pool = DescriptorPool()
        for known in (timestamp_pb2, wrappers_pb2):
            pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
        pool.Add(self._file(fields))
        made = GetMessageClass(pool.FindMessageTypeByName("elsewhere.Payment"))(**event)
        return bytes(made.SerializePartialToString())

    def _file(self, fields: dict[str, Any]) -> FileDescriptorProto:
        ours = {
            "user": _TYPE.TYPE_STRING,
            "shop": _TYPE.TYPE_STRING,
            "at": _TYPE.TYPE_INT64,
            "amount": _TYPE.TYPE_DOUBLE,
            "cents": _TYPE.TYPE_INT64,
        }
        # Proto2 tells what is missing from what is zero.
        file = FileDescriptorProto(name="payment.proto", package="elsewhere", syntax="proto2")
        file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"])
        message = file.message_type.add(name="Payment")
        for number, (name, kind) in enumerate(_with(fields, ours).items(), 1):
            field = message.field.add(name=name, number=number, label=_TYPE.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = _TYPE.TYPE_MESSAGE, kind
            else:
                field.type = kind
        return file


def _with(fields: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Theirs before ours: their order, and in Protobuf their numbers, are others too."""
    either = {**fields, **{name: kind for name, kind in ours.items() if name not in fields}}
    return {name: kind for name, kind in either.items() if kind is not None}


def _frame(schema_id: int, written: bytes, magic: int = 0) -> bytes:
    return struct.pack(">BI", magic, schema_id) + written
