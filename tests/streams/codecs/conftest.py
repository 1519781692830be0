"""One topic in every format, with its codec on a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from featurestore import Topic
from featurestore.spec.contract import FORMATS, Format
from streams.codecs import Codec, Decoded, codec_of
from streams.schemas import FolderSchemas

SCHEMA = {"who": str, "at": "timestamp", "n": int, "x": float, "ok": bool, "note": str, "seen": "timestamp"}
GOOD = {"who": "a", "at": 1, "n": 2, "x": 3.5, "ok": True, "note": None, "seen": None}


@dataclass(frozen=True)
class Made:
    """A codec with what it was made of."""

    topic: Topic
    schemas: FolderSchemas
    codec: Codec

    def records(self, *events: dict[str, Any]) -> list[bytes]:
        """A record an event, in every format."""
        return [record for event in events for record in self.codec.encode([event])]


Make = Callable[..., Made]


def rows(decoded: Decoded) -> list[dict[str, Any]]:
    """The events as plain values, moments in microseconds."""
    columns = {
        name: (array.cast("int64") if str(array.type).startswith("timestamp") else array).to_pylist()
        for name, array in decoded.arrays.items()
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture(params=FORMATS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """A topic of one format: every type, two columns that may be null."""
    return make_of(request.param, FolderSchemas(tmp_path / "schemas"))


def make_of(format: Format, schemas: FolderSchemas, **said: Any) -> Made:
    """The same with something else said."""
    given = {"schema": SCHEMA, "event_time": "at", "nullable": ("x", "ok", "note", "seen"), **said}
    topic = Topic("t", format=format, **given)
    return Made(topic, schemas, codec_of(topic, schemas))
