"""Protobuf events by google.protobuf, each behind the id of its schema and its message's place in that schema.

No generated code: messages are made from descriptors at run time, the writer's from the registry, ours from the
definition. Numbers of fields belong to the writer's schema alone, so columns are found by their names.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar

from google.protobuf import timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from featurestore.errors import IncompatibleSchemaError
from featurestore.kernel import DataType
from featurestore.spec import Topic
from streams.codecs.framed import FramedCodec, schema_id
from streams.schemas import Kind, WrittenSchema

_HEAD_BYTES = 5
# Messages may lie within messages; no schema of people goes as deep as this.
_DEPTH_MAX = 16
_VARINT_BYTES_MAX = 5

_OURS: dict[DataType, Any] = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "float64": FieldDescriptorProto.TYPE_DOUBLE,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "timestamp": FieldDescriptorProto.TYPE_INT64,  # microseconds
}
_WHOLE = frozenset(
    (
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    )
)
_TAKEN: dict[DataType, frozenset[int]] = {
    "string": frozenset((FieldDescriptor.CPPTYPE_STRING,)),
    "int64": _WHOLE,
    "float64": _WHOLE | {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE},
    "bool": frozenset((FieldDescriptor.CPPTYPE_BOOL,)),
    "timestamp": _WHOLE,
}
_TIMESTAMP = timestamp_pb2.Timestamp.DESCRIPTOR.full_name
_UNREAD: dict[int, Any] = {
    FieldDescriptorProto.TYPE_MESSAGE: FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_ENUM: FieldDescriptorProto.TYPE_INT32,
}
# What is read of time stamps and wrappers.
_INNER = frozenset(("seconds", "nanos", "value"))
_WRAPPERS = frozenset(each.full_name for each in wrappers_pb2.DESCRIPTOR.message_types_by_name.values())

Get = Callable[[Sequence[Any]], list[Any]]


def protobuf_schema(topic: Topic, before: FileDescriptorProto | None = None) -> FileDescriptorProto:
    """The schema of a topic's own events: one message, every field optional, so that a missing one is told from 0.

    before  the newest schema that the topic had: its fields keep their numbers, and numbers are never used again
    """
    file = FileDescriptorProto(name=f"{topic.name}.proto", syntax="proto3")
    message = file.message_type.add(name=topic.name.replace("-", "_"))
    numbers: dict[str, int] = {}
    gone: list[int] = []
    if before is not None and before.message_type:
        numbers = {field.name: field.number for field in before.message_type[0].field}
        gone = [number for each in before.message_type[0].reserved_range for number in range(each.start, each.end)]
    free = max([0, *numbers.values(), *gone]) + 1
    camel = Counter(map(_camel, topic.schema))
    for name, dtype in topic.schema.items():
        named = next((each for each in (name, *topic.renamed.get(name, ())) if each in numbers), None)
        if named is None:
            # The numbers 19000 to 19999 are Protobuf's own.
            number, free = (free, free + 1) if free < 19_000 else (free + 1_000, free + 1_001)
        else:
            number = numbers.pop(named)
        field = message.field.add(
            name=name, number=number, type=_OURS[dtype], label=FieldDescriptorProto.LABEL_OPTIONAL
        )
        if camel[_camel(name)] > 1:
            # Names that differ in their underscores alone have one name in JSON by themselves, which no pool takes.
            field.json_name = name
        field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
    for number in sorted({*gone, *numbers.values()}):
        message.reserved_range.add(start=number, end=number + 1)
    return file


def _camel(name: str) -> str:
    """The name of a field in JSON, unless its schema gives it another."""
    first, *others = name.split("_")
    return first + "".join(each[:1].upper() + each[1:] for each in others)


class ProtobufCodec(FramedCodec):
    """Encode and decode the Protobuf events of one topic."""

    kind: ClassVar[Kind] = "PROTOBUF"
    broken: ClassVar[str] = "broken_protobuf"
    head_bytes: ClassVar[int] = _HEAD_BYTES + 1  # with the zero that stands for the first message

    def __init__(self, topic: Topic, schemas: Any) -> None:
        super().__init__(topic, schemas)
        self._files: dict[int, SchemaFile | IncompatibleSchemaError] = {}
        self._message: Any = None

    def _schema_of(self, payload: bytes) -> tuple[Any, int]:
        found = schema_id(payload)
        path, start = _message_path(payload, _HEAD_BYTES)
        return (found, path), start

    def _reader(self, schema: WrittenSchema, key: Any) -> ProtobufReader:
        found, path = key
        if found not in self._files:
            try:
                self._files[found] = SchemaFile(schema, found)
            except IncompatibleSchemaError as error:
                self._files[found] = error
        file = self._files[found]
        if isinstance(file, IncompatibleSchemaError):
            raise file.with_traceback(None)
        return ProtobufReader(self._topic, file, path, found)

    def _own_schema(self) -> WrittenSchema:
        newest = self._schemas.latest(self.subject, self.kind)
        before = None
        if newest is not None and newest.kind == self.kind:
            before = FileDescriptorProto.FromString(base64.b64decode(newest.text))
        text = protobuf_schema(self._topic, before).SerializeToString(deterministic=True)
        written = WrittenSchema(self.kind, base64.b64encode(text).decode())
        self._message = GetMessageClass(SchemaFile(written, 0).message((0,)))
        return written

    def _body(self, values: Mapping[str, Any]) -> bytes:
        message = self._message()
        for name, value in values.items():
            if value is not None:
                setattr(message, name, value)
        # A single zero stands for the path to the first message of the file.
        return b"\x00" + bytes(message.SerializeToString(deterministic=True))


class ProtobufReader:
    """Reads one message type for one topic; raises IncompatibleSchemaError when built for one that cannot."""

    def __init__(self, topic: Topic, file: SchemaFile, path: tuple[int, ...], schema_id: int) -> None:
        message = file.message(path)
        self._gets: dict[str, Get | None] = {}
        taken: list[FieldDescriptor] = []
        for name, dtype in topic.schema.items():
            names = (name, *topic.renamed.get(name, ()))
            field = next((message.fields_by_name[each] for each in names if each in message.fields_by_name), None)
            if field is None and name not in topic.nullable:
                what = f"its message {message.full_name!r} has no field {name!r}, which may not be null"
                raise IncompatibleSchemaError(schema_id, what)
            self._gets[name] = None if field is None else _get(field, dtype, schema_id)
            if field is not None:
                taken.append(field)
        self._class = GetMessageClass(file.part(path, taken))

    def read(self, body: bytes) -> Any:
        return self._class.FromString(body)

    def column(self, name: str, events: Sequence[Any]) -> list[Any]:
        get = self._gets[name]
        return [None] * len(events) if get is None else get(events)


class SchemaFile:
    """The messages of one schema of the registry."""

    def __init__(self, schema: WrittenSchema, found_id: int) -> None:
        self._id = found_id
        # Of its own, since two schemas may name their messages alike. Kept as long as its messages are.
        self._pool = DescriptorPool()
        try:
            files = [FileDescriptorProto.FromString(base64.b64decode(text)) for text in schema.references]
            file = FileDescriptorProto.FromString(base64.b64decode(schema.text))
            here = {each.name for each in files}
            for each in (*files, file):
                for needed in each.dependency:
                    if needed not in here:
                        here.add(needed)
                        self._add_well_known(needed)
                self._pool.Add(each)
            self._file = self._pool.FindFileByName(file.name)
            # With every type's full name.
            self._proto = FileDescriptorProto()
            self._file.CopyToProto(self._proto)
            self._messages: list[DescriptorProto] = list(self._proto.message_type)
            self._package = file.package
        # The library raises TypeError for a bad descriptor, KeyError for an unknown name, DecodeError for bad bytes.
        except Exception as error:
            raise IncompatibleSchemaError(found_id, f"it cannot be used: {error!r}") from error

    def message(self, path: tuple[int, ...]) -> Descriptor:
        """The message at a path of places: in the file, in that message, and so on."""
        messages, names = self._messages, []
        for place in path:
            if place >= len(messages):
                raise IncompatibleSchemaError(self._id, f"it has no message at {list(path)}")
            names.append(messages[place].name)
            messages = list(messages[place].nested_type)
        full = ".".join([self._package, *names] if self._package else names)
        return self._pool.FindMessageTypeByName(full)

    def part(self, path: tuple[int, ...], taken: Sequence[FieldDescriptor]) -> Descriptor:
        """The message at a path with some of its fields: all others of an event stay bytes.

        Two bytes can stand for a message of many fields, and one event hold millions of those.
        """
        try:
            chain, messages = [], self._messages
            for place in path:
                chain.append(messages[place])
                messages = list(messages[place].nested_type)
            part = _some_fields(chain[-1], {each.name for each in taken})
            for outer in reversed(chain[:-1]):
                around = _some_fields(outer, ())
                around.nested_type.append(part)
                part = around
            pool = DescriptorPool()
            needed = {each.message_type.file.name: each.message_type.file for each in taken if each.message_type}
            for each in needed.values():
                known = FileDescriptorProto()
                each.CopyToProto(known)
                pool.Add(_file_of(known, [_some_fields(message, _INNER) for message in known.message_type], ()))
            pool.Add(_file_of(self._proto, [part], tuple(needed)))
            return pool.FindMessageTypeByName(self.message(path).full_name)
        except Exception as error:
            raise IncompatibleSchemaError(self._id, f"it cannot be read in part: {error!r}") from error

    def _add_well_known(self, name: str) -> None:
        # Those that come with the library and are loaded: time stamps, and wrappers of single values.
        file = FileDescriptorProto()
        Default().FindFileByName(name).CopyToProto(file)
        self._pool.Add(file)


def _file_of(
    file: FileDescriptorProto, messages: Sequence[DescriptorProto], needed: Sequence[str]
) -> FileDescriptorProto:
    """A file with these messages alone."""
    out = FileDescriptorProto(name=file.name, package=file.package, message_type=messages, dependency=needed)
    # What they say decides how fields are read: proto2, proto3, or an edition's features.
    for said in ("syntax", "edition"):
        if file.HasField(said):
            setattr(out, said, getattr(file, said))
    out.options.CopyFrom(file.options)
    return out


def _some_fields(message: DescriptorProto, names: Collection[str]) -> DescriptorProto:
    """A message with some of its fields, and without types of its own.

    Of a oneof the others stay as well, since the last one that is there unsets those before it.
    """
    out = DescriptorProto(name=message.name)
    out.options.CopyFrom(message.options)
    told = [each for each in message.field if each.name in names]
    choices = sorted({each.oneof_index for each in told if each.HasField("oneof_index")})
    out.oneof_decl.extend(message.oneof_decl[choice] for choice in choices)
    for each in message.field:
        is_beside = each.name not in names
        if is_beside and not (each.HasField("oneof_index") and each.oneof_index in choices):
            continue
        if is_beside and each.type == FieldDescriptorProto.TYPE_GROUP:
            continue
        field = out.field.add()
        field.CopyFrom(each)
        if each.HasField("oneof_index"):
            field.oneof_index = choices.index(each.oneof_index)
        if is_beside and each.type in _UNREAD:
            # Written alike, and made of nothing but its bytes.
            field.type = _UNREAD[each.type]
            field.ClearField("type_name")
            field.ClearField("default_value")
            field.ClearField("options")
    return out


def _get(field: FieldDescriptor, dtype: DataType, schema_id: int) -> Get:
    name = field.name
    repeated = getattr(field, "is_repeated", None)
    if repeated is None:
        repeated = field.label == FieldDescriptor.LABEL_REPEATED
    if not repeated and field.message_type is not None:
        inner = field.message_type
        if inner.full_name == _TIMESTAMP and dtype == "timestamp":
            return lambda events: [_moment_us(getattr(e, name)) if e.HasField(name) else None for e in events]
        if inner.full_name in _WRAPPERS and _fits(inner.fields_by_name["value"], dtype):
            return lambda events: [getattr(e, name).value if e.HasField(name) else None for e in events]
    elif not repeated and _fits(field, dtype):
        read = attrgetter(name)
        if not field.has_presence:
            return lambda events: list(map(read, events))
        if field.default_value:
            return lambda events: [read(e) if e.HasField(name) else None for e in events]
        # What is neither zero nor empty is there; only the rest has to be asked for.
        return lambda events: [
            value if value or e.HasField(name) else None for value, e in zip(map(read, events), events, strict=True)
        ]
    said = "repeated" if repeated else field.message_type.full_name if field.message_type else _type_name(field)
    raise IncompatibleSchemaError(schema_id, f"its field {name!r} is {said}, which cannot become {dtype}")


def _fits(field: FieldDescriptor, dtype: DataType) -> bool:
    return field.cpp_type in _TAKEN[dtype] and field.type != FieldDescriptor.TYPE_BYTES


def _type_name(field: FieldDescriptor) -> str:
    return str(FieldDescriptorProto.Type.Name(field.type)).removeprefix("TYPE_").lower()


def _moment_us(moment: Any) -> int:
    return int(moment.seconds * 1_000_000 + moment.nanos // 1_000)


def _message_path(payload: bytes, start: int) -> tuple[tuple[int, ...], int]:
    """Which message of its schema an event is, and where it begins. Raises ValueError."""
    count, at = _zigzag(payload, start)
    if count == 0:
        return (0,), at
    if not 0 < count <= _DEPTH_MAX:
        raise ValueError(f"its message lies {count} messages deep")
    path = []
    for _ in range(count):
        place, at = _zigzag(payload, at)
        if place < 0:
            raise ValueError(f"there is no message at place {place}")
        path.append(place)
    return tuple(path), at


def _zigzag(payload: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(_VARINT_BYTES_MAX):
        if at + count >= len(payload):
            raise ValueError("cut short before its message")
        byte = payload[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), at + count + 1
    raise ValueError("the path to its message is no number")
