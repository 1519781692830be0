"""What a schema registry does for codecs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from featurestore.errors import UnknownSchemaError

Kind = Literal["AVRO", "PROTOBUF"]


@dataclass(frozen=True, slots=True)
class WrittenSchema:
    """A schema as a registry keeps it.

    kind        as Confluent's registry names it; another than ours stays as it is
    text        JSON of an Avro schema, or a Protobuf file descriptor, serialized, in base64
    references  schemas that this one names, each before those that need it
    """

    kind: str
    text: str
    references: tuple[str, ...] = ()


class Schemas(Protocol):
    """A registry. Every method raises SchemaRegistryError when it cannot be asked, or refuses."""

    def register(self, subject: str, schema: WrittenSchema) -> int:
        """The id of a schema under a subject: the same schema has the same id, whoever registers it, however often."""
        ...

    def schema(self, schema_id: int, kind: Kind) -> WrittenSchema:
        """The schema of an id, expected to be of a kind; raises UnknownSchemaError."""
        ...

    def ask(self, ids: Collection[int], kind: Kind) -> Mapping[int, WrittenSchema | UnknownSchemaError]:
        """For each id its schema, or the error that `schema` raises; what is not known yet is asked for side by side.

        That there is no schema of an id is never remembered: it may be the next one that somebody registers.
        """
        ...

    def latest(self, subject: str, kind: Kind) -> WrittenSchema | None:
        """The newest schema of a subject, None where it has none yet."""
        ...
