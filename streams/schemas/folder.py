"""A schema registry in a folder, for local use: a file a schema, named by its id, and a file a subject and version.

    ids/1.json               {"kind": "AVRO", "text": ...}
    subjects/clicks-value/1  the id of its first version

A file appears whole or not at all, under a name that was free: whoever loses a race for a number looks again. So
any number of processes may register at once, on any file system that can link.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from featurestore.errors import SchemaRegistryError, UnknownSchemaError
from streams.schemas.registry import Kind, WrittenSchema

# Every lost race means that another schema was registered meanwhile.
_TRIES_MAX = 1_000


class _Kept(msgspec.Struct, frozen=True):
    kind: str
    text: str


class FolderSchemas:
    """The registry of one folder, which is made when the first schema comes."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).absolute()
        self._ids, self._subjects = self._folder / "ids", self._folder / "subjects"
        self._known: dict[int, WrittenSchema] = {}

    def register(self, subject: str, schema: WrittenSchema) -> int:
        if schema.references:
            raise SchemaRegistryError(str(self._folder), "a folder keeps no schemas with references")
        content = msgspec.json.encode(_Kept(schema.kind, schema.text))
        try:
            found = self._claim(self._ids, ".json", content, lambda taken: self._read(taken) == schema)
            versions, said = self._subjects / subject, str(found).encode()
            self._claim(versions, "", said, lambda taken: (versions / str(taken)).read_bytes() == said)
        except OSError as error:
            raise SchemaRegistryError(str(self._folder), str(error)) from error
        return found

    def schema(self, schema_id: int, kind: Kind) -> WrittenSchema:
        return self._read(schema_id)

    def ask(self, ids: Collection[int], kind: Kind) -> dict[int, WrittenSchema | UnknownSchemaError]:
        out: dict[int, WrittenSchema | UnknownSchemaError] = {}
        for schema_id in ids:
            try:
                out[schema_id] = self._read(schema_id)
            except UnknownSchemaError as error:
                out[schema_id] = error
        return out

    def latest(self, subject: str, kind: Kind) -> WrittenSchema | None:
        versions = self._subjects / subject
        try:
            newest = max(_numbers(versions), default=None)
            return None if newest is None else self._read(int((versions / str(newest)).read_bytes()))
        except OSError as error:
            raise SchemaRegistryError(str(self._folder), str(error)) from error

    def _read(self, schema_id: int) -> WrittenSchema:
        if schema_id not in self._known:
            try:
                content = (self._ids / f"{schema_id}.json").read_bytes()
                kept = msgspec.json.decode(content, type=_Kept)
            except FileNotFoundError as error:
                raise UnknownSchemaError(schema_id, str(self._folder)) from error
            except (OSError, msgspec.DecodeError) as error:
                raise SchemaRegistryError(str(self._folder), f"schema {schema_id} cannot be read: {error}") from error
            self._known[schema_id] = WrittenSchema(kept.kind, kept.text)
        return self._known[schema_id]

    def _claim(self, folder: Path, suffix: str, content: bytes, is_it: Callable[[int], bool]) -> int:
        """The number under which a folder has this content, put there under the next one where it is not."""
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES_MAX):
            taken = _numbers(folder)
            # Newest first: what is registered again is mostly what was registered last.
            known = next((number for number in reversed(taken) if is_it(number)), None)
            if known is not None:
                return known
            number = max(taken, default=0) + 1
            handle, draft = tempfile.mkstemp(prefix=".draft-", dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(draft, folder / f"{number}{suffix}")
                return number
            except FileExistsError:
                continue  # another process was first; it may have brought the very same
            finally:
                os.unlink(draft)
        raise SchemaRegistryError(str(self._folder), f"{_TRIES_MAX} other schemas were registered meanwhile; try again")


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(each.stem) for each in folder.iterdir() if each.stem.isdecimal())
