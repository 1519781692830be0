"""Confluent's Schema Registry, and those that speak its language, by the registry client of confluent-kafka."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, SchemaRegistryError

from featurestore.errors import SchemaRegistryError as UnreachableError
from featurestore.errors import UnknownSchemaError
from featurestore.urls import shown_url
from streams.schemas.registry import Kind, WrittenSchema

# What a registry says of a subject, version or schema that it does not have. A bare 404 is some other server's.
_NOT_FOUND = (40401, 40402, 40403)
_TIMEOUT_S = 10.0
# The client waits and asks again by itself; after that the worker ends, and its restart asks again.
_RETRIES_MAX = 3
_RETRY_MS, _RETRY_MAX_MS = 200, 2_000
# A registry gives its schemas ids that are Java's ints. Asked for another number it has no such page.
_ID_MAX = 2**31 - 1
# Bytes that are no events may name any number of ids, and each has to be asked for.
_AT_ONCE = 16
# Protobuf as a descriptor rather than as source text: nothing here reads .proto files.
_FORMAT: dict[Kind, str | None] = {"AVRO": None, "PROTOBUF": "serialized"}

_Answer = TypeVar("_Answer")


class ConfluentSchemas:
    """The registry at a URL; a user and password in it are sent as basic authentication."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        address = urlunsplit(parts._replace(netloc=host))
        self._where = shown_url(address)
        config: dict[str, Any] = {
            "url": address,
            "timeout": _TIMEOUT_S,
            "max.retries": _RETRIES_MAX,
            "retries.wait.ms": _RETRY_MS,
            "retries.max.wait.ms": _RETRY_MAX_MS,
        }
        if parts.username is not None:
            config["basic.auth.user.info"] = f"{parts.username}:{parts.password or ''}"
        # One for each kind: what a client keeps of its answers is kept by id, whatever format was asked for.
        self._clients: dict[str, SchemaRegistryClient] = {kind: SchemaRegistryClient(config) for kind in _FORMAT}
        # By kind as well, since any record may name any id: an Avro topic's gets the source text of a Protobuf schema.
        self._known: dict[tuple[int, Kind], WrittenSchema] = {}

    def register(self, subject: str, schema: WrittenSchema) -> int:
        client = self._clients[schema.kind]
        return int(self._asked(lambda: client.register_schema(subject, Schema(schema.text, schema.kind))))

    def schema(self, schema_id: int, kind: Kind) -> WrittenSchema:
        if schema_id > _ID_MAX:
            raise UnknownSchemaError(schema_id, self._where)
        known = self._known.get((schema_id, kind))
        if known is None:
            found = self._found(lambda: self._clients[kind].get_schema(schema_id, fmt=_FORMAT[kind]))
            if found is None:
                raise UnknownSchemaError(schema_id, self._where)
            known = self._known[schema_id, kind] = self._written(found, kind)
        return known

    def ask(self, ids: Collection[int], kind: Kind) -> dict[int, WrittenSchema | UnknownSchemaError]:
        def answer(schema_id: int) -> WrittenSchema | UnknownSchemaError:
            try:
                return self.schema(schema_id, kind)
            except UnknownSchemaError as error:
                return error

        if len(ids) < 2:
            return {schema_id: answer(schema_id) for schema_id in ids}
        with ThreadPoolExecutor(min(len(ids), _AT_ONCE), thread_name_prefix="schemas") as pool:
            return dict(zip(ids, pool.map(answer, ids), strict=True))

    def latest(self, subject: str, kind: Kind) -> WrittenSchema | None:
        found = self._found(lambda: self._clients[kind].get_latest_version(subject, fmt=_FORMAT[kind]))
        return None if found is None else self._written(found.schema, kind)

    def _written(self, schema: Schema, kind: Kind) -> WrittenSchema:
        references = self._references(schema.references or [], {}, kind)
        return WrittenSchema(schema.schema_type or "AVRO", schema.schema_str or "", tuple(references))

    def _references(
        self, references: list[SchemaReference], seen: dict[tuple[str, int], None], kind: Kind
    ) -> list[str]:
        """The texts of all schemas that are named, each after what it names itself."""
        out = []
        for each in references:
            subject, version = each.subject or "", each.version or 0
            if (subject, version) in seen:
                continue
            seen[subject, version] = None
            ask = partial(self._clients[kind].get_version, subject, version, fmt=_FORMAT[kind])
            named = self._asked(ask).schema
            out += [*self._references(named.references or [], seen, kind), named.schema_str or ""]
        return out

    def _found(self, ask: Callable[[], _Answer]) -> _Answer | None:
        """The answer, None where the registry says that there is none."""
        try:
            return ask()
        except SchemaRegistryError as error:
            if error.error_code in _NOT_FOUND:
                return None
            raise UnreachableError(self._where, str(error)) from error
        except Exception as error:
            raise self._unreachable(error) from error

    def _asked(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            return ask()
        except Exception as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        # The client passes on whatever its HTTP library, TLS or JSON raise: each means that it could not be asked.
        return UnreachableError(self._where, f"{type(error).__name__}: {error}")
