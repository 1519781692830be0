"""Schema registries: the schemas that events were written with, by id.

Enter: schemas of producers. Leave: an id for each, and each by its id, for ever the same. Two kinds: Confluent's
Schema Registry, and a folder for one machine or a shared disk.
"""

from __future__ import annotations

from streams.schemas.folder import FolderSchemas
from streams.schemas.registry import Kind, Schemas, WrittenSchema

__all__ = ["FolderSchemas", "Kind", "Schemas", "WrittenSchema", "schemas_at"]


def schemas_at(address: str) -> Schemas:
    """The registry at a URL, or in a folder. Nothing is asked or made yet."""
    if address.startswith(("http://", "https://")):
        from streams.schemas.confluent import ConfluentSchemas

        return ConfluentSchemas(address)
    return FolderSchemas(address)
