"""Avro events by fastavro, each behind the id of the schema that wrote it."""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from io import BytesIO
from typing import Any, ClassVar

import fastavro

from featurestore.errors import IncompatibleSchemaError
from featurestore.kernel import DataType
from featurestore.spec import Topic
from streams.codecs.framed import FramedCodec
from streams.schemas import Kind, WrittenSchema

_OURS: dict[DataType, Any] = {
    "string": "string",
    "int64": "long",
    "float64": "double",
    "bool": "boolean",
    "timestamp": {"type": "long", "logicalType": "timestamp-micros"},
}
# What of a writer's may become what of the reader's: the same, or Avro's promotions.
_TAKEN: dict[DataType, frozenset[str]] = {
    "string": frozenset(("string", "enum")),
    "int64": frozenset(("int", "long")),
    "float64": frozenset(("int", "long", "float", "double")),
    "bool": frozenset(("boolean",)),
    "timestamp": frozenset(("int", "long")),
}
# Logical type of a long -> its units in a microsecond, and microseconds in its unit. A plain long is microseconds.
_UNITS = {None: (1, 1), "timestamp-micros": (1, 1), "timestamp-millis": (1, 1_000), "timestamp-nanos": (1_000, 1)}
# An error is a record by another name.
_RECORDS = ("record", "error")
_PRIMITIVE = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))


def avro_schema(topic: Topic) -> dict[str, Any]:
    """The schema of a topic's own events: a record, its nullable columns a union with null that defaults to null."""
    fields: list[dict[str, Any]] = []
    for name, dtype in topic.schema.items():
        kind = _OURS[dtype]
        fields.append(
            {"name": name, "type": ["null", kind], "default": None}
            if name in topic.nullable
            else {"name": name, "type": kind}
        )
    return {"type": "record", "name": topic.name.replace("-", "_"), "fields": fields}


class AvroCodec(FramedCodec):
    """Encode and decode the Avro events of one topic."""

    kind: ClassVar[Kind] = "AVRO"
    broken: ClassVar[str] = "broken_avro"

    def __init__(self, topic: Topic, schemas: Any) -> None:
        super().__init__(topic, schemas)
        # Time stamps are longs here: values are microseconds already.
        self._parsed = fastavro.parse_schema(_plain(avro_schema(topic)))

    def _reader(self, schema: WrittenSchema, key: Hashable) -> AvroReader:
        return AvroReader(self._topic, schema, key[0])  # type: ignore[index]  # keys begin with the id

    def _own_schema(self) -> WrittenSchema:
        return WrittenSchema(self.kind, json.dumps(avro_schema(self._topic)))

    def _body(self, values: Mapping[str, Any]) -> bytes:
        out = BytesIO()
        fastavro.schemaless_writer(out, self._parsed, values)
        return out.getvalue()


class AvroReader:
    """Reads what one schema wrote, for one topic; raises IncompatibleSchemaError when built for one that cannot."""

    def __init__(self, topic: Topic, schema: WrittenSchema, schema_id: int) -> None:
        try:
            written = json.loads(schema.text)
            named: dict[str, Any] = {}
            for text in schema.references:
                fastavro.parse_schema(_plain(json.loads(text)), named_schemas=named)
            self._schema = fastavro.parse_schema(_plain(written), named_schemas=named)
            written = _full_names(written, "")
            types = _Types([*(_full_names(json.loads(text), "") for text in schema.references), written])
            types.check(written, ())
            if not isinstance(written, dict) or written.get("type") != "record":
                raise ValueError("it is no record")
        # What the library raises for JSON that is no schema is no closed list either; it is told, not hidden.
        except Exception as error:
            raise IncompatibleSchemaError(schema_id, f"it cannot be used: {error!r}") from error
        self._fields: dict[str, str | None] = {}
        self._units: dict[str, tuple[int, int]] = {}
        fields = {each["name"]: each["type"] for each in written["fields"]}
        for name, dtype in topic.schema.items():
            field = next((each for each in (name, *topic.renamed.get(name, ())) if each in fields), None)
            if field is None and name not in topic.nullable:
                raise IncompatibleSchemaError(schema_id, f"it has no field {name!r}, which may not be null")
            self._fields[name] = field
            if field is not None:
                self._units[name] = types.unit(schema_id, field, fields[field], dtype)
        taken = {field for field in self._fields.values() if field is not None}
        left = [kind for field, kind in fields.items() if field not in taken]
        # A byte can stand for a record of many fields, and one record hold a million of those: what no contract
        # names is passed over, not made. What is flat costs less to make than to pass over.
        try:
            self._wanted = None if all(map(_is_flat, left)) else _part(self._schema, taken, named)
        except Exception as error:
            raise IncompatibleSchemaError(schema_id, f"it cannot be read in part: {error!r}") from error

    def read(self, body: bytes) -> Any:
        stream = BytesIO(body)
        event = fastavro.schemaless_reader(stream, self._schema, self._wanted)
        if stream.tell() != len(body):
            raise ValueError(f"{len(body) - stream.tell()} bytes too many")
        return event

    def column(self, name: str, events: Sequence[Any]) -> list[Any]:
        field = self._fields[name]
        if field is None:
            return [None] * len(events)
        divide, multiply = self._units[name]
        values = [event[field] for event in events]
        if divide == multiply:
            return values
        return [value // divide * multiply if type(value) is int else value for value in values]


class _Types:
    """The named types of a schema whose names are full, and what may be read of it."""

    def __init__(self, written: Sequence[Any]) -> None:
        self._named: dict[str, Any] = {}
        for each in written:
            self._learn(each)

    def unit(self, schema_id: int, field: str, written: Any, dtype: DataType) -> tuple[int, int]:
        """What a field's whole numbers are divided and multiplied by; raises IncompatibleSchemaError."""
        branches = [self._said(each) for each in _branches(written)]
        taken = [logical for kind, logical in branches if self._takes(kind, logical, dtype)]
        if not taken:
            said = " or ".join(f"{kind} ({logical})" if logical else kind for kind, logical in branches)
            raise IncompatibleSchemaError(schema_id, f"its field {field!r} is {said}, which cannot become {dtype}")
        if dtype != "timestamp":
            return 1, 1
        units = {_UNITS[logical] for logical in taken}
        if len(units) > 1:
            raise IncompatibleSchemaError(schema_id, f"its field {field!r} has time stamps of two units")
        return units.pop()

    def check(self, written: Any, within: tuple[str, ...]) -> None:
        """Refuse what a few bytes could make endless: a type within itself, and items that take no bytes.

        One byte a level would go down the stack without end, and a count of items that are nothing would never be done.
        """
        if isinstance(written, list):
            for each in written:
                self.check(each, within)
        elif isinstance(written, str):
            if written not in _PRIMITIVE:
                if written in within:
                    raise ValueError(f"type {written!r} is within itself")
                self.check(self._named[written], (*within, written))
        elif isinstance(written.get("type"), dict | list):
            self.check(written["type"], within)
        elif written["type"] in _RECORDS:
            for each in written["fields"]:
                self.check(each["type"], (*within, written["name"]))
        elif written["type"] in ("array", "map"):
            inner = written["items" if written["type"] == "array" else "values"]
            self.check(inner, within)
            if written["type"] == "array" and self._is_empty(inner):
                raise ValueError("it has an array whose items take no bytes")

    def _is_empty(self, written: Any) -> bool:
        """Whether a value of the type may take no bytes at all."""
        if isinstance(written, list):
            return False  # a union writes the number of its branch
        if isinstance(written, str):
            return written == "null" or (written not in _PRIMITIVE and self._is_empty(self._named[written]))
        kind = written["type"]
        if isinstance(kind, dict | list):
            return self._is_empty(kind)
        if kind in _RECORDS:
            return all(self._is_empty(each["type"]) for each in written["fields"])
        return bool(kind == "null" or (kind == "fixed" and written["size"] == 0))

    def _takes(self, kind: str, logical: str | None, dtype: DataType) -> bool:
        return kind in _TAKEN[dtype] and (dtype != "timestamp" or logical in _UNITS)

    def _said(self, written: Any) -> tuple[str, str | None]:
        """Kind and logical type of what is not a union."""
        if isinstance(written, str):
            return (written, None) if written in _PRIMITIVE else self._said(self._named[written])
        if isinstance(written, dict) and isinstance(written["type"], str):
            return written["type"], written.get("logicalType")
        return self._said(written["type"]) if isinstance(written, dict) else ("union", None)

    def _learn(self, written: Any) -> None:
        if isinstance(written, list):
            for each in written:
                self._learn(each)
        elif isinstance(written, dict):
            if _is_named(written):
                self._named[written["name"]] = written
            for each in written.get("fields", ()):
                self._learn(each["type"])
            for part in ("type", "items", "values"):
                if isinstance(written.get(part), dict | list):
                    self._learn(written[part])


def _full_names(written: Any, space: str) -> Any:
    """A type with every name in full, as Avro's specification has it.

    space  the namespace around it; a name with a dot is full, and its own namespace is around what is within it
    """
    if isinstance(written, list):
        return [_full_names(each, space) for each in written]
    if isinstance(written, str):
        return written if written in _PRIMITIVE or "." in written or not space else f"{space}.{written}"
    if not isinstance(written, dict):
        return written
    out = dict(written)
    if _is_named(written):
        name, space = written["name"], written.get("namespace", space) or ""
        out["name"] = name if "." in name or not space else f"{space}.{name}"
        out.pop("namespace", None)
        space = out["name"].rpartition(".")[0]
    if "fields" in written:
        out["fields"] = [{**each, "type": _full_names(each["type"], space)} for each in written["fields"]]
    for part in ("items", "values"):
        if part in written:
            out[part] = _full_names(written[part], space)
    if isinstance(written.get("type"), dict | list):
        out["type"] = _full_names(written["type"], space)
    return out


def _is_named(written: Mapping[str, Any]) -> bool:
    return "name" in written and written.get("type") in ("enum", "fixed", *_RECORDS)


def _is_flat(written: Any) -> bool:
    return all(isinstance(each, str) and each in _PRIMITIVE for each in _branches(written))


def _branches(written: Any) -> list[Any]:
    return written if isinstance(written, list) else [written]


def _part(parsed: Any, fields: Collection[str], named: Mapping[str, Any]) -> Any:
    """A parsed record with some of its fields, their types named rather than defined again."""

    def by_name(kind: Any) -> Any:
        if isinstance(kind, list):
            return [by_name(each) for each in kind]
        return kind["name"] if isinstance(kind, dict) and "name" in kind else kind

    some = [
        {"name": each["name"], "type": by_name(each["type"])} for each in parsed["fields"] if each["name"] in fields
    ]
    others = {name: each for name, each in named.items() if name != parsed["name"]}
    return fastavro.parse_schema({"type": "record", "name": parsed["name"], "fields": some}, named_schemas=others)


def _plain(written: Any) -> Any:
    """The same without logical types: numbers stay numbers, and no odd value can break a conversion."""
    if isinstance(written, list):
        return [_plain(each) for each in written]
    if isinstance(written, dict):
        return {name: _plain(each) for name, each in written.items() if name != "logicalType"}
    return written
