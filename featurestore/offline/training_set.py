"""Training sets: a point-in-time join kept as Parquet, never changed, named by the hash of all that decides it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import MissingEntityKeyError
from featurestore.offline.event_log import EventLog
from featurestore.offline.point_in_time import service_join
from featurestore.spec import FeatureService, Topic

_DATA, _MANIFEST = "data.parquet", "manifest.json"


class Manifest(msgspec.Struct, frozen=True):
    """What decided a training set.

    logs          topic -> identity of its event log
    log_versions  topic -> version of that
    """

    id: str
    service: str
    service_version: str
    logs: dict[str, str]
    log_versions: dict[str, int]
    spine: str
    event_time: str
    label: str | None
    rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """One training set on disk.

    features  columns that the service gave, `view__feature`
    """

    folder: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def features(self) -> tuple[str, ...]:
        return self.manifest.columns

    def table(self) -> pa.Table:
        """(n rows) the spine's columns, then the features; the spine's order."""
        return pq.read_table(self.folder / _DATA, memory_map=True)


def make_training_set(
    spine: pa.Table,
    service: FeatureService,
    log_of: Callable[[Topic], EventLog],
    folder: Path,
    *,
    label: str | None,
    event_time: str,
) -> TrainingSet:
    """Join, or find the same join again; raises MissingEntityKeyError, WrongTypeError, RepeatedColumnError."""
    if label is not None and label not in spine.column_names:
        raise MissingEntityKeyError("the training set's label", [label], spine.column_names)
    topics = {selection.view.source.name: selection.view.source for selection in service.selections}
    # Version 7 of another log, or of one that was made anew, has other events.
    logs = {name: log_of(topic).identity() for name, topic in sorted(topics.items())}
    versions = {name: log_of(topic).version() for name, topic in sorted(topics.items())}
    said = (service.name, service.version, logs, versions, _hash(spine), event_time, label)
    name = f"{service.name}-{blake2b(repr(said).encode(), digest_size=8).hexdigest()}"
    found = folder / name
    if not (found / _MANIFEST).exists():
        # Read each log at the version that the name says, however far the worker has come meanwhile.
        joined = service_join(
            spine, service, lambda topic: log_of(topic).at(versions[topic.name]), event_time=event_time
        )
        manifest = Manifest(
            *(name, service.name, service.version, logs, versions, _hash(spine), event_time, label),
            *(len(spine), service.columns),
        )
        _write(found, joined, manifest)
    return TrainingSet(found, msgspec.json.decode((found / _MANIFEST).read_bytes(), type=Manifest))


def _write(found: Path, joined: pa.Table, manifest: Manifest) -> None:
    """All or nothing: written beside, then moved into place; whoever comes second finds the first one's."""
    unfinished = found.with_name(f".{found.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    pq.write_table(joined, unfinished / _DATA, compression="zstd")
    (unfinished / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    try:
        unfinished.rename(found)
    except OSError:
        if not (found / _MANIFEST).exists():
            raise
        shutil.rmtree(unfinished)


def _hash(spine: pa.Table) -> str:
    """Of names, types and values, however the table is cut into chunks."""
    digest = blake2b(digest_size=16)
    whole = spine.combine_chunks().replace_schema_metadata(None)
    with pa.ipc.new_stream(pa.PythonFile(_Into(digest), mode="w"), whole.schema) as stream:
        stream.write_table(whole)
    return digest.hexdigest()


class _Into:
    """A file that only feeds a hash."""

    closed = False

    def __init__(self, digest: blake2b) -> None:
        self._digest = digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to close."""
