"""The bytes in front of Avro and Protobuf events, and the registries that they name schemas of."""

from __future__ import annotations

import base64
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from featurestore import Topic
from featurestore.errors import SchemaRegistryError, UnknownSchemaError
from featurestore.local import free_port
from streams.codecs import Decoded, codec_of, framed
from streams.codecs.avro import avro_schema
from streams.schemas import FolderSchemas, Schemas, WrittenSchema, schemas_at
from tests.streams.codecs.conftest import GOOD, SCHEMA, make_of, rows

KINDS: dict[Literal["avro", "protobuf"], str] = {"avro": "AVRO", "protobuf": "PROTOBUF"}


class RegistryServer(ThreadingHTTPServer):
    """As much of the Schema Registry's HTTP as its client speaks here, over real sockets."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.schemas, self.asked, self.refuses = FolderSchemas(folder), [], 0  # type: ignore[var-annotated]
        # How many are asked at this moment, the most of them so far, and how long each of them takes.
        self.open, self.open_max, self.takes_s, self.lock = 0, 0, 0.0, threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: RegistryServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append(self.path)
        with self.server.lock:
            self.server.open += 1
            self.server.open_max = max(self.server.open_max, self.server.open)
        time.sleep(self.server.takes_s)
        with self.server.lock:
            self.server.open -= 1
        if self.server.refuses:
            return self._say(self.server.refuses, {"error_code": 50001, "message": "down for repairs"})
        path, query = parts.path.strip("/").split("/"), parse_qs(parts.query)
        try:
            if path[:2] == ["schemas", "ids"]:
                if int(path[2]) >= 2**31:
                    # What Jersey says of a number that is no int.
                    return self._say(404, {"error_code": 404, "message": "HTTP 404 Not Found"})
                found = self.server.schemas.schema(int(path[2]), "AVRO")
                if found.kind == "PROTOBUF" and query.get("format") != ["serialized"]:
                    # Without being asked for another, a registry gives the source text.
                    found = WrittenSchema(found.kind, 'syntax = "proto3"; message t {}')
                return self._say(200, {"schema": found.text, "schemaType": found.kind})
            newest = self.server.schemas.latest(path[1], "AVRO")
            if newest is None:
                return self._say(404, {"error_code": 40401, "message": "Subject not found."})
            said = {"subject": path[1], "version": 1, "id": 1, "schema": newest.text, "schemaType": newest.kind}
            return self._say(200, said)
        except UnknownSchemaError:
            return self._say(404, {"error_code": 40403, "message": "Schema not found"})

    def do_POST(self) -> None:
        said = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
        subject = urlsplit(self.path).path.split("/")[2]
        kind = said.get("schemaType", "AVRO")
        self._say(200, {"id": self.server.schemas.register(subject, WrittenSchema(kind, said["schema"]))})

    def _say(self, status: int, what: dict[str, Any]) -> None:
        body = msgspec.json.encode(what)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "served") as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(params=["folder", "http"])
def schemas(request: pytest.FixtureRequest, tmp_path: Path) -> Schemas:
    """Both registries, by their addresses."""
    if request.param == "folder":
        return schemas_at(str(tmp_path / "schemas"))
    return schemas_at(request.getfixturevalue("server").url)


@pytest.mark.parametrize("format", KINDS)
def test_an_event_names_its_schema_as_confluent_has_it(format: Literal["avro", "protobuf"], tmp_path: Path) -> None:
    made = make_of(format, FolderSchemas(tmp_path))
    [record] = made.codec.encode([GOOD])
    assert record[:5] == b"\x00\x00\x00\x00\x01"
    assert record[5:6] == (b"\x02" if format == "avro" else b"\x00")  # "a" is 1 long; the first message of its file
    for broken, said in ((record[:4], "too short"), (b"\x01" + record[1:], "begins with byte 1"), (b"", "too short")):
        [one] = made.codec.decode([broken]).rejected
        assert one.reason == f"broken_{format}"
        assert said in one.detail


@pytest.mark.parametrize("format", KINDS)
def test_both_registries_give_what_was_written_and_say_what_they_do_not_have(
    schemas: Schemas, format: Literal["avro", "protobuf"]
) -> None:
    topic = Topic("t", SCHEMA, "at", nullable=("x", "ok", "note", "seen"), format=format)
    [record] = codec_of(topic, schemas).encode([GOOD])
    decoded = codec_of(topic, schemas).decode([record, b"\x00\x00\x00\x00\x63" + record[5:], record])
    assert rows(decoded) == [GOOD, GOOD]
    [unknown] = decoded.rejected
    assert (unknown.index, unknown.reason) == (1, "unknown_schema")
    assert "schema 99 is not in the registry" in unknown.detail
    assert schemas.latest("t-value", "AVRO") is not None
    assert schemas.latest("other-value", "AVRO") is None


def test_a_schema_of_another_kind_is_incompatible(tmp_path: Path) -> None:
    schemas = FolderSchemas(tmp_path)
    [record] = make_of("avro", schemas).codec.encode([GOOD])
    [one] = make_of("protobuf", schemas).codec.decode([record[:5] + b"\x00"]).rejected
    assert one.reason == "incompatible_schema"


def test_a_stray_record_that_names_a_schema_of_another_kind_harms_no_other_topic(server: RegistryServer) -> None:
    # As a worker has it: one registry for all of its topics.
    schemas = schemas_at(server.url)
    [record] = make_of("protobuf", schemas_at(server.url)).codec.encode([GOOD])
    for _ in range(2):
        [stray] = make_of("avro", schemas).codec.decode([record]).rejected
        assert stray.reason == "incompatible_schema"
        assert rows(make_of("protobuf", schemas).codec.decode([record])) == [GOOD]


def test_the_same_schema_has_the_same_id_under_any_subject_and_for_any_process(tmp_path: Path) -> None:
    folder = FolderSchemas(tmp_path)
    first, second = WrittenSchema("AVRO", '"long"'), WrittenSchema("AVRO", '"string"')
    assert [folder.register("a", first), folder.register("b", second), folder.register("b", first)] == [1, 2, 1]
    assert [FolderSchemas(tmp_path).register("a", first), FolderSchemas(tmp_path).latest("b", "AVRO")] == [1, first]


def register(folder: Path, names: list[str]) -> dict[str, int]:
    schemas = FolderSchemas(folder)
    return {name: schemas.register("shared-value", WrittenSchema("AVRO", f'"{name}"')) for name in names}


def test_processes_that_register_at_once_agree_on_every_id(tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(12)]
    with ProcessPoolExecutor(4) as pool:
        answers = list(pool.map(register, [tmp_path] * 4, [names, names[::-1], names[6:] + names[:6], names]))
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert sorted(answers[0].values()) == list(range(1, 13))
    schemas = FolderSchemas(tmp_path)
    assert all(schemas.schema(number, "AVRO").text == f'"{name}"' for name, number in answers[0].items())
    assert len(list((tmp_path / "subjects" / "shared-value").iterdir())) == 12
    assert not list(tmp_path.rglob(".draft-*"))


def test_a_registry_that_does_not_answer_is_an_error_and_never_a_dead_letter(
    server: RegistryServer, tmp_path: Path
) -> None:
    made = make_of("avro", server.schemas)
    [record] = made.codec.encode([GOOD])
    server.refuses = 500
    asking = codec_of(made.topic, schemas_at(server.url))
    with pytest.raises(SchemaRegistryError, match="down for repairs"):
        asking.decode([b"junk", record])
    # Once it answers again, the same codec goes on, and asks no more for what it knows.
    server.refuses = 0
    assert rows(asking.decode([b"junk", record])) == [GOOD]
    server.refuses = 500
    assert rows(asking.decode([record])) == [GOOD]
    nobody = codec_of(made.topic, schemas_at(f"http://user:secret@127.0.0.1:{free_port()}"))
    with pytest.raises(SchemaRegistryError, match="check the setting schema_registry") as raised:
        nobody.decode([record])
    assert "secret" not in str(raised.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(SchemaRegistryError):
        codec_of(made.topic, schemas_at(str(tmp_path / "file"))).encode([GOOD])


def test_a_page_that_is_not_found_is_not_a_schema_that_is_not_there(server: RegistryServer) -> None:
    made = make_of("avro", server.schemas)
    [record] = made.codec.encode([GOOD])
    server.refuses = 404
    with pytest.raises(SchemaRegistryError):
        codec_of(made.topic, schemas_at(server.url)).decode([record])


def named(schema_id: int, rest: bytes = b"x") -> bytes:
    return struct.pack(">bI", 0, schema_id) + rest


def reasons(decoded: Decoded) -> list[str]:
    return [one.reason for one in decoded.rejected]


def test_an_id_that_no_registry_gives_is_unknown_without_being_asked_for(server: RegistryServer) -> None:
    made = make_of("avro", schemas_at(server.url))
    decoded = made.codec.decode([named(2**31), named(2**32 - 1), named(2**31 - 1)])
    assert reasons(decoded) == ["unknown_schema"] * 3
    assert server.asked == [f"/schemas/ids/{2**31 - 1}"]


def test_many_unknown_ids_are_asked_for_side_by_side_and_each_once(server: RegistryServer) -> None:
    made = make_of("protobuf", schemas_at(server.url))
    server.takes_s = 0.02
    decoded = made.codec.decode([named(number, path) for path in (b"\x00", b"\x02\x02") for number in range(90, 150)])
    assert reasons(decoded) == ["unknown_schema"] * 120
    assert len(server.asked) == 60
    assert 4 < server.open_max <= 16


def test_a_schema_that_was_registered_after_garbage_named_its_id_is_found(schemas: Schemas) -> None:
    made = make_of("avro", schemas)  # type: ignore[arg-type]
    flood = [named(number) for number in range(1, 40)]
    assert reasons(made.codec.decode(flood)) == ["unknown_schema"] * 39
    [record] = made.codec.encode([GOOD])
    assert record[:5] == flood[0][:5]
    for records in ([record], [*flood[1:], record]):
        assert rows(made.codec.decode(records)) == [GOOD]


def test_of_a_flood_of_ids_the_rest_comes_in_the_next_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framed, "ASKED_MAX", 3)
    made = make_of("avro", FolderSchemas(tmp_path))
    [record] = made.codec.encode([GOOD])
    records = [record, named(7), named(8), b"?", named(7), record, named(9), named(8), record]
    decoded, count = made.codec.decode_first(records)
    assert (count, decoded.index.tolist()) == (6, [0, 5])
    decoded, rest = made.codec.decode_first(records[count:])
    assert (rest, decoded.index.tolist()) == (3, [2])
    # An id whose schema is known needs no asking, so it ends no part.
    assert made.codec.decode_first([named(7), named(8), named(9), record, named(9), named(10)])[1] == 5
    assert reasons(made.codec.decode(records)) == [*["unknown_schema"] * 2, "broken_avro", *["unknown_schema"] * 3]


@pytest.mark.parametrize("format", KINDS)
def test_events_that_were_read_are_let_go_before_the_whole_batch_is(
    format: Literal["avro", "protobuf"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_of(format, FolderSchemas(tmp_path))
    events = [{**GOOD, "n": number} for number in range(50)]
    records = made.records(*events)
    records.insert(20, records[0][:-1])
    monkeypatch.setattr(framed, "_HELD_BYTES_MAX", 100)
    held = []
    reader = type(made.codec._reader(made.schemas.schema(1, made.codec.kind), (1, (0,))))  # type: ignore[attr-defined]
    plain = reader.column

    def noted(self: Any, name: str, some: Any) -> list[Any]:
        held.append(len(some))
        return plain(self, name, some)  # type: ignore[no-any-return]

    monkeypatch.setattr(reader, "column", noted)
    assert rows(made.codec.decode(records)) == events
    assert 1 <= max(held) < 20


def test_messages_that_no_schema_has_leave_nothing_behind(tmp_path: Path) -> None:
    made = make_of("protobuf", FolderSchemas(tmp_path))
    [record] = made.codec.encode([GOOD])

    def batch(first: int) -> list[bytes]:
        # A path of two places, each of two bytes.
        paths = [
            b"\x04" + bytes([0x80 | 2 * (n % 64), 1 + n // 8_192, 0x80 | 2 * (n // 64 % 64), 1])
            for n in range(first, first + 2_000)
        ]
        return [record, *(record[:5] + path for path in paths)]

    assert set(reasons(made.codec.decode(batch(0)))) == {"incompatible_schema"}
    tracemalloc.start()
    made.codec.decode(batch(2_000))
    before, _ = tracemalloc.get_traced_memory()
    for first in range(4_000, 20_000, 2_000):
        assert rows(made.codec.decode(batch(first))) == [GOOD]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 200_000


def test_confluents_own_client_reads_the_schemas_that_we_register(server: RegistryServer) -> None:
    """Ours and theirs name one thing alike: text of Avro, a serialized descriptor of Protobuf."""
    for number, format in enumerate(KINDS, start=1):
        made = make_of(format, schemas_at(server.url))
        made.codec.encode([GOOD])
        found = SchemaRegistryClient({"url": server.url}).get_schema(number, fmt="serialized")
        assert (found.schema_type, bool(found.schema_str)) == (KINDS[format], True)
        if format == "avro":
            assert msgspec.json.decode(found.schema_str or "") == avro_schema(made.topic)
        else:
            file = FileDescriptorProto.FromString(base64.b64decode(found.schema_str or ""))
            assert [each.name for each in file.message_type] == ["t"]


def test_confluents_own_avro_is_taken_and_ours_is_taken_by_theirs(server: RegistryServer) -> None:
    client, where = SchemaRegistryClient({"url": server.url}), SerializationContext("t", MessageField.VALUE)
    made = make_of("avro", schemas_at(server.url))
    theirs = {
        "type": "record",
        "name": "Theirs",
        "namespace": "com.example",
        "fields": [
            {"name": "n", "type": "int"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "who", "type": "string"},
        ],
    }
    written = AvroSerializer(client, msgspec.json.encode(theirs).decode())({"n": 2, "at": 5, "who": "a"}, where)
    assert rows(made.codec.decode([written])) == [{**GOOD, "at": 5_000, "x": None, "ok": None}]
    [ours] = made.codec.encode([GOOD])
    read = AvroDeserializer(client)(ours, where)
    assert {**read, "at": read["at"].timestamp()} == {**GOOD, "at": 1e-6}


@pytest.mark.parametrize(
    ("format", "text"),
    [("avro", text) for text in ("{", "7", "[]", '"long"', '{"type": "record"}', '{"type": "record", "name": "a"}')]
    + [("protobuf", text) for text in ("?", "AAAA", "", "syntax = 'proto3';")],
)
def test_a_schema_that_is_none_is_incompatible(format: Literal["avro", "protobuf"], text: str, tmp_path: Path) -> None:
    schemas = FolderSchemas(tmp_path)
    schemas.register("t-value", WrittenSchema(KINDS[format], text))
    [one] = make_of(format, schemas).codec.decode([b"\x00\x00\x00\x00\x01\x00"]).rejected
    assert one.reason == "incompatible_schema"
